//! Numbers of 16 bits, through the letterbox kernel, which stores them.

use detectd_cuda::layout::Number;
use detectd_cuda::{InputLayout, Letterboxes, Memory as _, Queue};
use detectd_vision::{Image, Preprocess};

use super::Bench;

/// Every value of a channel, scaled and shifted so that all magnitudes occur: normal, subnormal, rounded to zero, to
/// infinity, and halfway between two numbers.
pub fn all_halves<Q: Queue>(bench: &Bench<Q>) {
    for exponent in -30..=18 {
        for shift in [0.0_f32, 1.0, -0.333, 1.0 / 3072.0] {
            let scale = 2.0_f32.powi(exponent) / 255.0 * 1.001;
            stored(bench, scale, shift);
        }
    }
    // Ties: multiples of half a unit in the last place.
    stored(bench, 2.0_f32.powi(-11) * 0.5, -1.0);
    stored(bench, 2.0_f32.powi(-25), 0.0);
}

fn stored<Q: Queue>(bench: &Bench<Q>, scale: f32, shift: f32) {
    let preprocess = Preprocess { scale, mean: [shift, -shift, 0.0], ..Preprocess::yolov5(16, 6) };
    let pixels: Vec<u8> = (0..16 * 6 * 3).map(|at| (at % 256) as u8).collect();
    let image = Image::new(16, 6, pixels).expect("as many bytes");
    for number in [Number::Float16, Number::Bfloat16] {
        let bytes = preprocess.input_len() * 2;
        let memory = bench.memory(bytes);
        let mut letterboxes = Letterboxes::new(&bench.queue, &preprocess, 1).expect("made");
        letterboxes.send(&bench.queue, 0, &[&image]).expect("sent");
        let input = InputLayout { address: memory.address(), number, interleaved: false, bytes };
        // SAFETY: the memory is the input's size and lives.
        #[expect(unsafe_code)]
        unsafe {
            letterboxes.run(&bench.queue, 0, &input).expect("run");
        }
        bench.wait();
        let got: Vec<u16> = bytemuck::pod_collect_to_vec(&bench.received(memory.address(), bytes));
        let factor = scale;
        for (at, got) in got.iter().enumerate() {
            let (channel, place) = (at / 96, at % 96);
            let bias = -preprocess.mean[channel];
            let value = f32::from(image.pixels()[place * 3 + channel]) * factor + bias;
            let expected = match number {
                Number::Float16 => half::f16::from_f32(value).to_bits(),
                _ => half::bf16::from_f32(value).to_bits(),
            };
            assert_eq!(*got, expected, "{value} as {number:?}: scale {scale}, shift {shift}");
        }
    }
}
