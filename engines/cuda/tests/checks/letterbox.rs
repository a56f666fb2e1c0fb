//! The letterbox kernel against `Preprocess::run`: equal in every bit.

use detectd_cuda::layout::Number;
use detectd_cuda::{InputLayout, Letterboxes, Memory as _, Queue};
use detectd_vision::{ChannelOrder, Filter, Image, Preprocess, Resize, Resizer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Bench;

/// Every way to fit and to interpolate, with pictures of different sizes in one batch.
pub fn every_kind<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for round in 0..bench.rounds {
        for resize in [Resize::Letterbox, Resize::LetterboxTopLeft, Resize::Stretch] {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let (width, height) = (random.random_range(1..72), random.random_range(1..72));
                let preprocess = Preprocess {
                    resize,
                    filter,
                    channels: if round % 2 == 0 { ChannelOrder::Rgb } else { ChannelOrder::Bgr },
                    mean: [0.1, 0.2, 0.3],
                    std: [0.9, 1.1, 0.5],
                    pad: random.random(),
                    ..Preprocess::yolov5(width, height)
                };
                let count = random.random_range(1..5);
                let images: Vec<Image> = (0..count).map(|_| image(&mut random, 1..160)).collect();
                compare(bench, &preprocess, &images, round % 3 == 1);
            }
        }
    }
}

/// Pictures and inputs of one pixel, one row, one column.
pub fn tiny<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(12);
    let sizes = [(1, 1), (1, 7), (7, 1), (2, 2), (1, 200), (200, 1)];
    let images: Vec<Image> = sizes.map(|size| of_size(&mut random, size)).into();
    for (width, height) in [(1, 1), (1, 9), (9, 1), (32, 32)] {
        for resize in [Resize::Letterbox, Resize::LetterboxTopLeft, Resize::Stretch] {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let preprocess = Preprocess { resize, filter, ..Preprocess::yolov5(width, height) };
                compare(bench, &preprocess, &images, false);
            }
        }
    }
}

fn image(random: &mut ChaCha8Rng, sides: std::ops::Range<u32>) -> Image {
    let size = (random.random_range(sides.clone()), random.random_range(sides));
    of_size(random, size)
}

/// Noise that reaches both ends of the range, so that interpolation goes beyond it.
fn of_size(random: &mut ChaCha8Rng, (width, height): (u32, u32)) -> Image {
    let pixels = (0..width * height * 3).map(|_| match random.random_range(0..4) {
        0 => 0,
        1 => 255,
        _ => random.random(),
    });
    Image::new(width, height, pixels.collect()).expect("as many bytes")
}

fn compare<Q: Queue>(bench: &Bench<Q>, preprocess: &Preprocess, images: &[Image], interleaved: bool) {
    let each = preprocess.input_len();
    let bytes = images.len() * each * 4;
    let memory = bench.memory(bytes);
    let mut letterboxes = Letterboxes::new(&bench.queue, preprocess, images.len()).expect("made");
    let references: Vec<&Image> = images.iter().collect();
    // Twice in each slot: the second time a smaller batch in buffers that are there already.
    for (slot, count) in [(0, images.len()), (1, images.len()), (0, 1)] {
        letterboxes.send(&bench.queue, slot, &references[..count]).expect("sent");
        let input = InputLayout { address: memory.address(), number: Number::Float32, interleaved, bytes };
        // SAFETY: the memory holds the batch and lives.
        #[expect(unsafe_code)]
        let geometry = unsafe { letterboxes.run(&bench.queue, slot, &input).expect("run").to_vec() };
        bench.wait();
        let got: Vec<f32> = bytemuck::pod_collect_to_vec(&bench.received(memory.address(), count * each * 4));
        for (at, (image, got)) in images[..count].iter().zip(got.chunks_exact(each)).enumerate() {
            let mut expected = vec![0.0; each];
            let letterbox = preprocess.run(image, &mut expected, &mut Resizer::default()).expect("prepared");
            assert_eq!(geometry[at], letterbox);
            let places = preprocess.width as usize * preprocess.height as usize;
            for channel in 0..3 {
                for place in 0..places {
                    let from = if interleaved { place * 3 + channel } else { channel * places + place };
                    let (got, expected) = (got[from], expected[channel * places + place]);
                    let (x, y) = (place % preprocess.width as usize, place / preprocess.width as usize);
                    assert!(
                        got.to_bits() == expected.to_bits(),
                        "{image:?} to {preprocess:?}, channel {channel} of ({x}, {y}): {got}, expected {expected}"
                    );
                }
            }
        }
    }
}
