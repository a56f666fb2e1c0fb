//! The kernels on a real device, against `detectd-vision`. Without a device every test says so and passes.
//!
//! Built with `cargo test --no-run`, the program runs on a machine without cargo.

mod checks;

use std::process::Command;
use std::sync::Arc;

use bytemuck::bytes_of;
use detectd_cuda::layout::{Number, Work};
use detectd_cuda::{CudaError, Device, InputLayout, Kernel, Launch, Letterboxes, Memory as _, Queue, Stream};
use detectd_vision::{Image, Preprocess, Resizer};

/// The last device, so that nothing works by taking the first.
fn device() -> Option<Arc<Device>> {
    let count = match Device::count() {
        Ok(0) => Err("the driver has no device".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(error.to_string()),
    };
    match count {
        Ok(count) => Some(Device::open(count - 1).unwrap_or_else(|error| panic!("{error}"))),
        Err(reason) => {
            println!("SKIPPED: no GPU: {reason}");
            None
        }
    }
}

fn stream(device: &Arc<Device>) -> Stream {
    Stream::new(device).expect("a stream")
}

#[test]
fn the_kernels_compute_what_the_cpu_does() {
    let Some(device) = device() else { return };
    println!("on {}", device.name().expect("a name"));
    // Under a checker, which is slow, fewer.
    let rounds = std::env::var("DETECTD_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(40);
    // A few units in the last place of a probability, for the device's exponentials.
    checks::all(&checks::Bench { queue: stream(&device), tolerance: 2e-6, rounds });
}

#[test]
fn streams_beside_each_other_do_not_mix() {
    let Some(device) = device() else { return };
    let (copies, queue) = (stream(&device), stream(&device));
    let preprocess = Preprocess::yolov5(320, 320);
    let mut letterboxes = Letterboxes::new(&copies, &preprocess, 8).expect("made");
    let bytes = 8 * preprocess.input_len() * 4;
    let inputs: Vec<_> = (0..40).map(|_| queue.allocate(bytes).expect("memory")).collect();
    let batch = |round: usize| -> Vec<Image> {
        (0..8)
            .map(|at| Image::filled(200 + 13 * at, 300 - 7 * at, [round as u8, at as u8 * 20, 255 - round as u8]))
            .collect()
    };
    // Nothing is waited for: while one batch is letterboxed, the next is sent.
    for (round, input) in inputs.iter().enumerate() {
        let images = batch(round);
        letterboxes.send(&copies, round, &images.iter().collect::<Vec<_>>()).expect("sent");
        let layout = InputLayout { address: input.address(), number: Number::Float32, interleaved: false, bytes };
        // SAFETY: each batch has memory of its own, which lives to the end.
        #[expect(unsafe_code)]
        unsafe {
            letterboxes.run(&queue, round, &layout).expect("run");
        }
    }
    queue.finish().expect("done");
    for (round, input) in inputs.iter().enumerate() {
        let mut got = vec![0; bytes];
        // SAFETY: the input has so many bytes.
        #[expect(unsafe_code)]
        unsafe {
            queue.download(input.address(), &mut got).expect("received");
        }
        let got: Vec<f32> = bytemuck::pod_collect_to_vec(&got);
        for (image, got) in batch(round).iter().zip(got.chunks_exact(preprocess.input_len())) {
            let mut expected = vec![0.0; preprocess.input_len()];
            preprocess.run(image, &mut expected, &mut Resizer::default()).expect("prepared");
            assert!(got == expected, "batch {round}, {image:?}");
        }
    }
}

#[test]
fn a_device_without_memory_goes_on() {
    let Some(device) = device() else { return };
    let queue = stream(&device);
    let (free, all) = device.memory().expect("asked");
    let error = queue.allocate(all.saturating_mul(2)).err().expect("twice the device's memory");
    assert!(matches!(error, CudaError::OutOfMemory(_)), "{error:?}");
    // Until nothing is left, then all of it back.
    let mut taken = Vec::new();
    let step = free / 8 + 1;
    let error = loop {
        match queue.allocate(step) {
            Ok(memory) => taken.push(memory),
            Err(error) => break error,
        }
        assert!(taken.len() < 100, "memory does not end");
    };
    assert!(matches!(error, CudaError::OutOfMemory(_)), "{error:?}");
    drop(taken);
    drop(queue.allocate(step).expect("there is memory again"));
}

#[test]
fn a_lost_device_is_told() {
    if device().is_none() {
        return;
    }
    // A lost device is lost for the whole process: another one loses it.
    let program = std::env::current_exe().expect("this program");
    let arguments = ["--exact", "loses_the_device", "--ignored", "--nocapture"];
    let output = Command::new(program).args(arguments).output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let again = device().expect("the device is still there for others");
    stream(&again).finish().expect("it works");
}

/// Run by the test above.
#[test]
#[ignore = "loses the device for the process"]
fn loses_the_device() {
    let Some(device) = device() else { return };
    let queue = stream(&device);
    // Every address is 8: within nothing.
    let work = Work {
        head: 8,
        requests: 8,
        kept: 8,
        found: 8,
        answer_counts: 8,
        kept_keys: 8,
        answer: 8,
        most: 1,
        capacity: 1,
        ..Work::default()
    };
    // SAFETY: this is what must not be done; the process ends soon.
    #[expect(unsafe_code)]
    let launched = unsafe {
        queue.launch(&Launch { kernel: Kernel::Answer, blocks: [1, 1], threads: 32, arguments: bytes_of(&work) })
    };
    let error = launched.and_then(|()| queue.finish()).expect_err("an illegal address");
    assert!(matches!(error, CudaError::DeviceLost(_)), "{error:?}");
    let error = queue.allocate(16).err().expect("nothing works any more");
    assert!(matches!(error, CudaError::DeviceLost(_)), "{error:?}");
}
