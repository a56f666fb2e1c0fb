//! Inputs for the networks, from fixed seeds, and the comparison of outputs.

use detectd_engine::{Batch, DataType, Tensor, TensorData};
use detectd_vision::Image;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::network::Network;

/// A batch of `size` random items.
pub fn batch(network: &Network, size: usize, seed: u64) -> Batch {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let inputs = network.inputs.iter().map(|port| {
        let shape = [&[size], &port.dims[..]].concat();
        let len = shape.iter().product::<usize>();
        let data = match port.data_type {
            DataType::Fp32 => TensorData::Fp32((0..len).map(|_| random.random_range(0.0..1.0)).collect()),
            DataType::Int32 => TensorData::Int32((0..len).map(|_| random.random()).collect()),
            // Engines may compute in 32 bits.
            DataType::Int64 => TensorData::Int64((0..len).map(|_| i64::from(random.random::<i32>())).collect()),
            DataType::Uint8 => TensorData::Uint8((0..len).map(|_| random.random()).collect()),
            DataType::Int8 => TensorData::Int8((0..len).map(|_| random.random()).collect()),
        };
        Tensor::new(shape, data).expect("as many values as the shape")
    });
    Batch { inputs: inputs.collect() }
}

/// A picture with large shapes and some noise, of a size of its own for each seed.
pub fn picture(seed: u64) -> Image {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (width, height) = (random.random_range(20..90), random.random_range(20..90));
    let mut image = Image::filled(width, height, random.random());
    for _ in 0..4 {
        let colour: [u8; 3] = random.random();
        let (left, top) = (random.random_range(0..width), random.random_range(0..height));
        let (right, bottom) = (random.random_range(left..width), random.random_range(top..height));
        for row in top..=bottom {
            for column in left..=right {
                let at = (row * width + column) as usize * 3;
                image.pixels_mut()[at..at + 3].copy_from_slice(&colour);
            }
        }
    }
    for value in image.pixels_mut() {
        *value = value.saturating_add(random.random_range(0..16));
    }
    image
}

/// Panics where an output differs from the expected one by more than `tolerance`, relative for values above 1;
/// integers must be equal.
pub fn assert_close(got: &[Tensor], expected: &[Tensor], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: number of outputs");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.shape(), expected.shape(), "{what}: shape of output {index}");
        match (got.data(), expected.data()) {
            (TensorData::Fp32(got), TensorData::Fp32(expected)) => {
                for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let bound = tolerance * expected.abs().max(1.0);
                    // Not `>`, which a value that is no number would pass.
                    let close = (got - expected).abs() <= bound;
                    assert!(close, "{what}: output {index}, value {place}: {got}, expected {expected}");
                }
            }
            (got, expected) => assert_eq!(got, expected, "{what}: output {index}"),
        }
    }
}
