use detectd_vision::{BoundingBox, Image};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::sample::LabelledBox;
use crate::scenes::render;

fn plain(width: u32, height: u32, grey: u8, bbox: BoundingBox) -> Sample {
    Sample {
        image: Image::filled(width, height, [grey; 3]),
        boxes: vec![LabelledBox { class_id: u32::from(grey), bbox }],
    }
}

fn pixel(sample: &Sample, x: u32, y: u32) -> u8 {
    sample.image.pixels()[((y * sample.image.width() + x) * 3) as usize]
}

#[test]
fn mosaic_puts_each_picture_in_its_quarter() {
    let bbox = BoundingBox::new(10.0, 20.0, 30.0, 40.0);
    let samples = [1, 2, 3, 4].map(|grey| plain(64, 64, grey, bbox));
    let out = mosaic::mosaic(samples.each_ref(), 64, [40, 70]);
    // Around (40, 70): the upper left picture spans (-24, 6) to (40, 70) and so on.
    assert_eq!([pixel(&out, 39, 69), pixel(&out, 40, 69), pixel(&out, 39, 70), pixel(&out, 40, 70)], [1, 2, 3, 4]);
    assert_eq!(pixel(&out, 39, 5), PADDING[0]);
    assert_eq!(pixel(&out, 104, 70), PADDING[0]);
    let found: Vec<_> = out.boxes.iter().map(|labelled| (labelled.class_id, labelled.bbox)).collect();
    let expected = [
        (1, BoundingBox::new(0.0, 26.0, 6.0, 46.0)),
        (2, BoundingBox::new(50.0, 26.0, 70.0, 46.0)),
        (3, BoundingBox::new(0.0, 90.0, 6.0, 110.0)),
        (4, BoundingBox::new(50.0, 90.0, 70.0, 110.0)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn letterbox_scales_and_centres() {
    let out = mosaic::letterbox(&plain(200, 100, 9, BoundingBox::new(20.0, 10.0, 60.0, 30.0)), 50);
    assert_eq!((out.image.width(), out.image.height()), (50, 50));
    assert_eq!(out.boxes[0].bbox, BoundingBox::new(5.0, 14.5, 15.0, 19.5));
    assert_eq!([pixel(&out, 25, 11), pixel(&out, 25, 12), pixel(&out, 25, 36), pixel(&out, 25, 37)], [114, 9, 9, 114]);
}

#[test]
fn without_augmentation_a_fitting_sample_comes_back_as_it_was() {
    let sample = render(3, 96, 96);
    let out =
        training_sample(std::slice::from_ref(&sample), 0, 96, &Augmentation::NONE, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(out.image, sample.image);
    assert_eq!(out.boxes, sample.boxes);
}

#[test]
fn labels_stay_on_the_canvas_and_keep_their_size_rules() {
    let samples: Vec<_> = (0..6).map(|seed| render(seed, 128, 128)).collect();
    let strong =
        Augmentation { degrees: 20.0, shear: 8.0, perspective: 0.0005, mixup: 0.5, flipud: 0.5, ..Default::default() };
    let mut boxes = 0;
    for seed in 0..60 {
        let out = training_sample(&samples, seed as usize % 6, 128, &strong, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!((out.image.width(), out.image.height()), (128, 128));
        for LabelledBox { bbox, .. } in &out.boxes {
            assert!(
                bbox.is_valid() && bbox.x1 >= 0.0 && bbox.y1 >= 0.0 && bbox.x2 <= 128.0 && bbox.y2 <= 128.0,
                "{bbox:?}"
            );
            assert!(bbox.width() > 2.0 && bbox.height() > 2.0, "{bbox:?}");
        }
        boxes += out.boxes.len();
    }
    assert!(boxes > 60, "only {boxes} boxes survived 60 mosaics");
}

#[test]
fn the_same_seed_gives_the_same_sample() {
    let samples: Vec<_> = (0..4).map(|seed| render(seed, 96, 96)).collect();
    let make = |seed| training_sample(&samples, 1, 96, &Augmentation::default(), &mut ChaCha8Rng::seed_from_u64(seed));
    assert_eq!(make(5).image, make(5).image);
    assert_eq!(make(5).boxes, make(5).boxes);
    assert_ne!(make(5).image, make(6).image);
}

#[test]
fn flips_mirror_pixels_and_boxes_and_undo_themselves() {
    let original = render(11, 97, 97);
    for flip in [flip_horizontally, flip_vertically] {
        let mut sample = original.clone();
        flip(&mut sample);
        assert_ne!(sample.image, original.image);
        flip(&mut sample);
        assert_eq!(sample.image, original.image);
        assert_eq!(sample.boxes, original.boxes);
    }
    let mut sample = plain(100, 50, 1, BoundingBox::new(10.0, 20.0, 30.0, 45.0));
    flip_horizontally(&mut sample);
    flip_vertically(&mut sample);
    assert_eq!(sample.boxes[0].bbox, BoundingBox::new(70.0, 5.0, 90.0, 30.0));
}

#[test]
fn mixing_blends_pixels_and_joins_boxes() {
    let bbox = BoundingBox::new(0.0, 0.0, 4.0, 4.0);
    let mut sample = plain(8, 8, 200, bbox);
    mix(&mut sample, plain(8, 8, 100, bbox), 0.25);
    assert_eq!(pixel(&sample, 3, 3), 125);
    assert_eq!(sample.boxes.len(), 2);
}

#[test]
fn mixup_ratios_gather_around_a_half() {
    let rng = &mut ChaCha8Rng::seed_from_u64(0);
    let ratios: Vec<f32> = (0..4000).map(|_| mixup_ratio(rng)).collect();
    let mean = ratios.iter().sum::<f32>() / 4000.0;
    let variance = ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f32>() / 4000.0;
    // Beta(32, 32) has mean 1/2 and variance 1/260.
    assert!((mean - 0.5).abs() < 0.01, "{mean}");
    assert!((variance - 1.0 / 260.0).abs() < 0.001, "{variance}");
}

#[test]
fn values_out_of_range_are_named() {
    assert_eq!(Augmentation::default().validate(), Ok(()));
    let error = Augmentation { scale: 1.5, ..Augmentation::NONE }.validate().unwrap_err();
    assert_eq!(error.to_string(), "augmentation scale must be from 0 to 0.95, not 1.5");
    assert!(Augmentation { mixup: f32::NAN, ..Augmentation::NONE }.validate().is_err());
}
