//! The sorting kernel against the standard library.

use bytemuck::{bytes_of, cast_slice};
use detectd_cuda::layout::SortArguments;
use detectd_cuda::{Kernel, Queue};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Bench;

/// Around every power of two, around the tile, with orders that are hard or trivial, in pictures beside each other.
pub fn every_length<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let mut lengths = vec![0, 1, 2, 3, 5, 7, 8, 9, 100, 255, 256, 257, 1000, 2048, 4095, 4096, 4097, 8191, 8192, 8193];
    lengths.extend([12_289, 16_385, 30_000]);
    if bench.rounds > 10 {
        lengths.extend([32_768, 65_536, 65_535, 100_001, 131_072]);
    }
    for length in lengths {
        let threads = if bench.rounds > 10 { 1024 } else { [32, 96, 256][length % 3] };
        sort(bench, &mut random, length, threads);
    }
}

fn sort<Q: Queue>(bench: &Bench<Q>, random: &mut ChaCha8Rng, length: usize, threads: u32) {
    let stride = length + 3;
    let mut kinds: Vec<Vec<u64>> = vec![
        (0..length).map(|_| random.random()).collect(),
        (0..length as u64).collect(),
        (0..length as u64).rev().collect(),
        vec![7; length],
        (0..length).map(|_| random.random_range(0..4)).collect(),
    ];
    // Keys of real candidates are different from each other.
    let mut different: Vec<u64> = (0..length as u64).map(|at| (at % 5) << 32 | at).collect();
    different.shuffle(random);
    kinds.push(different);
    let mut keys: Vec<u64> = Vec::new();
    let mut counts: Vec<u32> = Vec::new();
    for kind in &kinds {
        keys.extend(kind);
        keys.extend([u64::MAX, 0, 1]);
        counts.push(length as u32);
    }
    // A count beyond what is there to sort, as after an overflow.
    counts[0] += 1000;
    let (sent, sent_counts) = (bench.sent(cast_slice(&keys)), bench.sent(cast_slice(&counts)));
    let arguments = SortArguments {
        keys: sent.address(),
        counts: sent_counts.address(),
        stride: stride as u32,
        most: length as u32,
    };
    bench.run(Kernel::Sort, [1, kinds.len() as u32], threads, bytes_of(&arguments)).expect("sorted");
    let got: Vec<u64> = bytemuck::pod_collect_to_vec(&bench.received(sent.address(), keys.len() * 8));
    for (kind, (got, mut expected)) in got.chunks_exact(stride).zip(kinds).enumerate() {
        expected.sort_unstable();
        assert!(got[..length] == expected, "{length} keys of kind {kind}, {threads} threads");
        assert_eq!(got[length..], [u64::MAX, 0, 1], "what lies behind the keys of kind {kind}");
    }
}
