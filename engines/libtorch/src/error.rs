//! libtorch's messages: what kind of failure each is, and the part of it that says something.

use detectd_engine::EngineError;

/// Parts of messages about memory: the CPU's allocator, CUDA's, and those of the libraries below.
const OUT_OF_MEMORY: [&str; 7] = [
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "OutOfMemoryError",
    "std::bad_alloc",
    "_STATUS_ALLOC_FAILED",
    "could not allocate",
];

/// Parts of messages after which the device does not compute any more in this process.
const DEVICE_LOST: [&str; 7] = [
    "an illegal memory access was encountered",
    "unspecified launch failure",
    "device-side assert triggered",
    "uncorrectable ECC error",
    "misaligned address",
    "hardware stack error",
    "GPU is lost",
];

/// A failure of an operation.
pub fn failure(message: &str) -> EngineError {
    let short = concise(message);
    let has = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    if has(&OUT_OF_MEMORY) {
        EngineError::OutOfMemory(short)
    } else if message.contains("CUDA error") && has(&DEVICE_LOST) {
        EngineError::DeviceLost(short)
    } else {
        EngineError::Backend(short)
    }
}

/// The same while a model is loaded; memory stays what it is.
pub fn load(message: &str) -> EngineError {
    match failure(message) {
        EngineError::OutOfMemory(message) => EngineError::OutOfMemory(message),
        _ => EngineError::Load(concise(message)),
    }
}

/// Without the stack of calls: the operator that failed, and why.
pub fn concise(message: &str) -> String {
    let reason = ["RuntimeError: ", "Error: "].iter().find_map(|start| Some(message.rsplit_once(start)?.1));
    let reason = reason.unwrap_or(message).trim();
    // What follows is a list of all back ends, or the place in libtorch's own source.
    let end = ["\nException raised from", "\nCPU: registered at", "\n\nCPU: registered"];
    let end = end.iter().filter_map(|end| reason.find(end)).min().unwrap_or(reason.len());
    let reason = reason[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    match operator(message) {
        Some(operator) => format!("operator {operator}: {reason}"),
        None => reason,
    }
}

/// The operator that the interpreter's stack of calls ends with: what is underlined in its last line of code.
fn operator(message: &str) -> Option<&str> {
    let lines: Vec<&str> = message.lines().collect();
    let mark = lines.iter().rposition(|line| line.ends_with("<--- HERE"))?;
    let start = lines[mark].find('~')?;
    let line = lines.get(mark.checked_sub(1)?)?;
    let operator = line.get(start..)?;
    let end = operator.find('(').unwrap_or(operator.len());
    Some(operator[..end].trim()).filter(|operator| !operator.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "The following operation failed in the TorchScript interpreter.\n\
         Traceback of TorchScript, serialized code (most recent call last):\n  \
           File \"code/__torch__.py\", line 8, in forward\n    \
             x: Tensor) -> Tensor:\n    \
             _0 = torch.reshape(x, [1, 7])\n         \
                  ~~~~~~~~~~~~~ <--- HERE\n    \
             return _0\n\
         RuntimeError: shape '[1, 7]' is invalid for input of size 12\n";

    #[test]
    fn the_operator_and_the_reason_are_kept() {
        let expected = "operator torch.reshape: shape '[1, 7]' is invalid for input of size 12";
        assert_eq!(failure(TRACE), EngineError::Backend(expected.into()));
        assert_eq!(load(TRACE), EngineError::Load(expected.into()));
    }

    #[test]
    fn memory_and_lost_devices_are_told_apart() {
        let memory = [
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to \
             allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)",
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB",
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "std::bad_alloc",
        ];
        for message in memory {
            assert!(matches!(failure(message), EngineError::OutOfMemory(_)), "{message}");
            assert!(matches!(load(message), EngineError::OutOfMemory(_)), "{message}");
        }
        let lost = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously";
        assert!(matches!(failure(lost), EngineError::DeviceLost(_)));
        assert!(matches!(failure("CUDA error: invalid argument"), EngineError::Backend(_)));
    }
}
