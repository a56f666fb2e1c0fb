//! The kernels through the real run-time compiler, which needs no GPU.

use detectd_cuda::{Cache, Compiler, CudaError, Device, Kernel, Target, source};

fn compiler() -> Option<Compiler> {
    match Compiler::open() {
        Ok(compiler) => Some(compiler),
        Err(error @ CudaError::MissingLibrary { .. }) => {
            println!("SKIPPED: {error}; `make nvrtc` fetches it");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_kernel_compiles_for_every_device() {
    let Some(compiler) = compiler() else { return };
    let newest = *compiler.capabilities().last().expect("the compiler knows a device");
    for capability in [80, 90, newest] {
        for target in [Target::Portable(capability), Target::Machine(capability)] {
            let code = compiler.compile(&source(), target).unwrap_or_else(|error| panic!("{error}"));
            for kernel in Kernel::ALL {
                let name = kernel.name().as_bytes();
                assert!(code.windows(name.len()).any(|part| part == name), "{target:?} has no {kernel:?}");
            }
            let is_text = code.windows(8).any(|part| part == b".version");
            assert_eq!(is_text, matches!(target, Target::Portable(_)), "{target:?}");
            println!("{}: {} bytes", target.architecture(), code.len());
        }
    }
}

#[test]
fn a_mistake_is_reported_with_its_place() {
    let Some(compiler) = compiler() else { return };
    let source = source().replace("keep(w, picture, key);\n}", "keep(w, picture, nothing);\n}");
    let error = compiler.compile(&source, Target::Portable(80)).expect_err("an undefined name");
    let CudaError::Compile { architecture, reason } = error else { panic!("{error:?}") };
    assert_eq!(architecture, "compute_80");
    assert!(reason.contains("gather.cu(14)") && reason.contains("nothing"), "{reason}");
}

#[test]
fn what_was_compiled_is_kept_and_what_is_damaged_is_compiled_again() {
    let Some(compiler) = compiler() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::at(folder.path());
    let target = Target::Portable(80);
    let small = "extern \"C\" __global__ void nothing() {}";
    let code = cache.code(&compiler, small, target).expect("compiled");
    let files = || std::fs::read_dir(folder.path()).expect("the folder").map(|file| file.expect("a file").path());
    let [file] = &files().collect::<Vec<_>>()[..] else { panic!("one file") };
    let written = std::fs::metadata(file).and_then(|data| data.modified()).expect("written");
    assert_eq!(cache.code(&compiler, small, target).expect("read"), code);
    assert_eq!(std::fs::metadata(file).and_then(|data| data.modified()).expect("there"), written, "not written again");
    std::fs::write(file, b"damaged").expect("damaged");
    assert_eq!(cache.code(&compiler, small, target).expect("compiled again"), code);
    assert!(std::fs::metadata(file).expect("there").len() > 32, "written again");
    // Another device and another source are other files.
    cache.code(&compiler, small, Target::Portable(90)).expect("compiled");
    cache.code(&compiler, &format!("{small} "), target).expect("compiled");
    assert_eq!(files().count(), 3);
    // A folder that cannot be written costs time, nothing else.
    let nowhere = Cache::at(std::path::Path::new("/proc/nowhere"));
    assert_eq!(nowhere.code(&compiler, small, target).expect("compiled"), code);
}

#[test]
fn a_device_that_is_newer_than_the_compiler_gets_portable_code() {
    let Some(compiler) = compiler() else { return };
    let newest = *compiler.capabilities().last().expect("one");
    assert_eq!(compiler.target(newest), Ok(Target::Machine(newest)));
    assert_eq!(compiler.target(newest + 1), Ok(Target::Portable(newest)));
    assert!(matches!(compiler.target(20), Err(CudaError::Compile { .. })));
}

#[test]
fn a_machine_without_a_driver_is_told_what_is_missing() {
    match Device::count() {
        Ok(count) => {
            println!("there is a driver, with {count} devices");
            let error = Device::open(count).err().expect("one device too many");
            assert_eq!(error, CudaError::NoDevice { ordinal: count, count });
        }
        Err(error) => {
            let message = error.to_string();
            assert!(matches!(error, CudaError::MissingLibrary { library: "libcuda.so.1", .. }), "{message}");
            assert!(message.contains("libcuda.so.1") && message.contains("NVIDIA's driver"), "{message}");
            assert_eq!(Device::open(3).err(), Some(error), "whatever device is asked for");
        }
    }
}
