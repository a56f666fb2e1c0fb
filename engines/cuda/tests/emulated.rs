//! The kernels on the CPU, against `detectd-vision`: equal in every bit, whatever the order of threads and blocks.

mod checks;

use detectd_cuda_emulation::Emulation;

#[test]
fn the_kernels_compute_what_the_cpu_does() {
    if !detectd_cuda_emulation::AVAILABLE {
        println!("SKIPPED: there was no C++ compiler to compile the kernels with");
        return;
    }
    checks::all(&checks::Bench { queue: Emulation::new(1), tolerance: 0.0, rounds: 6 });
}
