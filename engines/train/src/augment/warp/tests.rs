use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;

const STILL: [f32; 2] = [0.0, 0.0];
const MIDDLE: [f32; 2] = [0.5, 0.5];

fn labelled(x1: f32, y1: f32, x2: f32, y2: f32) -> LabelledBox {
    LabelledBox { class_id: 3, bbox: BoundingBox::new(x1, y1, x2, y2) }
}

/// A black picture with a white rectangle where its one box is.
fn rectangle(size: u32, labelled: LabelledBox) -> Sample {
    let mut image = Image::filled(size, size, [0; 3]);
    let bbox = labelled.bbox;
    for (index, pixel) in image.pixels_mut().as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (x, y) = ((index as u32 % size) as f32 + 0.5, (index as u32 / size) as f32 + 0.5);
        if x > bbox.x1 && x < bbox.x2 && y > bbox.y1 && y < bbox.y2 {
            *pixel = [255; 3];
        }
    }
    Sample { image, boxes: vec![labelled] }
}

/// The box of all pixels lighter than mid-grey padding.
fn white_box(image: &Image) -> BoundingBox {
    let (mut x1, mut y1, mut x2, mut y2) = (u32::MAX, u32::MAX, 0, 0);
    for (index, pixel) in image.pixels().as_chunks::<3>().0.iter().enumerate() {
        if pixel[0] > 128 {
            let (x, y) = (index as u32 % image.width(), index as u32 / image.width());
            (x1, y1, x2, y2) = (x1.min(x), y1.min(y), x2.max(x + 1), y2.max(y + 1));
        }
    }
    BoundingBox::new(x1 as f32, y1 as f32, x2 as f32, y2 as f32)
}

fn assert_close(a: BoundingBox, b: BoundingBox, tolerance: f32) {
    let worst = [a.x1 - b.x1, a.y1 - b.y1, a.x2 - b.x2, a.y2 - b.y2].map(f32::abs).into_iter().fold(0.0, f32::max);
    assert!(worst <= tolerance, "{a:?} and {b:?} differ by {worst}");
}

#[test]
fn the_middle_of_a_double_canvas_is_cut_out_unchanged() {
    let sample = rectangle(128, labelled(40.0, 50.0, 70.0, 90.0));
    let out = Warp::new(128.0, 64.0, STILL, 0.0, 1.0, STILL, MIDDLE).apply(sample.clone(), 64);
    assert_eq!(out.boxes[0].bbox, BoundingBox::new(8.0, 18.0, 38.0, 58.0));
    for row in 0..64 {
        let (from, to) = (((row + 32) * 128 + 32) * 3, row * 64 * 3);
        assert_eq!(sample.image.pixels()[from..from + 192], out.image.pixels()[to..to + 192], "row {row}");
    }
}

#[test]
fn a_quarter_turn_is_counter_clockwise_and_moves_boxes_and_pixels_alike() {
    let sample = rectangle(64, labelled(40.0, 8.0, 60.0, 18.0));
    let out = Warp::new(64.0, 64.0, STILL, std::f32::consts::FRAC_PI_2, 1.0, STILL, MIDDLE).apply(sample, 64);
    let expected = BoundingBox::new(8.0, 4.0, 18.0, 24.0);
    assert_close(out.boxes[0].bbox, expected, 1e-3);
    assert_close(white_box(&out.image), expected, 1e-3);
}

#[test]
fn translation_scale_and_shear_follow_their_formulas() {
    let sample = rectangle(100, labelled(40.0, 40.0, 60.0, 60.0));
    let shifted = Warp::new(100.0, 100.0, STILL, 0.0, 1.0, STILL, [0.6, 0.45]).apply(sample.clone(), 100);
    assert_close(shifted.boxes[0].bbox, BoundingBox::new(50.0, 35.0, 70.0, 55.0), 1e-4);
    let scaled = Warp::new(100.0, 100.0, STILL, 0.0, 1.5, STILL, MIDDLE).apply(sample.clone(), 100);
    assert_close(scaled.boxes[0].bbox, BoundingBox::new(35.0, 35.0, 65.0, 65.0), 1e-4);
    // Sheared by 45 degrees along x, a square of half side 10 reaches 20 to each side.
    let sheared = Warp::new(100.0, 100.0, STILL, 0.0, 1.0, [45.0, 0.0], MIDDLE).apply(sample, 100);
    assert_close(sheared.boxes[0].bbox, BoundingBox::new(30.0, 40.0, 70.0, 60.0), 1e-3);
}

#[test]
fn perspective_divides_by_the_third_coordinate() {
    let sample = rectangle(100, labelled(60.0, 45.0, 80.0, 55.0));
    let out = Warp::new(100.0, 100.0, [0.01, 0.0], 0.0, 1.0, STILL, MIDDLE).apply(sample, 100);
    // x' = x / (1 + x/100) around the middle: 10 -> 10/1.1, 30 -> 30/1.3; the near edge is the taller one.
    let expected = BoundingBox::new(50.0 + 10.0 / 1.1, 50.0 - 5.0 / 1.1, 50.0 + 30.0 / 1.3, 50.0 + 5.0 / 1.1);
    assert_close(out.boxes[0].bbox, expected, 1e-3);
    assert_close(white_box(&out.image), expected, 1.0);
}

#[test]
fn boxes_of_which_too_little_is_left_are_dropped() {
    let warp = Warp::new(100.0, 100.0, STILL, 0.0, 1.0, STILL, [0.95, 0.5]);
    // Shifted right by 45: 9 of 10 columns, then 8 of 10, then all of it leave the canvas.
    let kept = |x1: f32| warp.labelled_box(&labelled(x1, 20.0, x1 + 40.0, 60.0), 100.0).is_some();
    assert!(kept(50.0));
    assert!(!kept(51.5), "less than a tenth is left");
    assert!(!kept(60.0));
    assert!(warp.labelled_box(&labelled(5.0, 20.0, 6.5, 60.0), 100.0).is_none(), "narrower than 2 pixels");
}

#[test]
fn random_warps_move_boxes_and_pixels_together() {
    let augmentation = Augmentation { degrees: 0.0, translate: 0.2, scale: 0.4, ..Augmentation::NONE };
    for seed in 0..50 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let sample = rectangle(160, labelled(60.0, 50.0, 100.0, 110.0));
        let out = Warp::random(&augmentation, 160, 80, rng).apply(sample, 80);
        match out.boxes[..] {
            [found] => assert_close(found.bbox, white_box(&out.image), 0.51),
            _ => panic!("seed {seed}: the box was lost"),
        }
    }
}

#[test]
fn the_fast_inner_loop_agrees_with_the_careful_border_loop() {
    let mut image = Image::filled(50, 40, [0; 3]);
    image.pixels_mut().iter_mut().enumerate().for_each(|(index, byte)| *byte = (index * 37 % 256) as u8);
    let sampler = Sampler::new(&image);
    for step in 0..2000 {
        let point = Vec2::new(step as f32 * 0.0239, (step % 380) as f32 * 0.1);
        assert_eq!(sampler.at(point), sampler.at_border(point), "{point}");
    }
}
