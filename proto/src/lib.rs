//! The wire: protocol definitions and the Rust code generated from them.
//!
//! The code in `gen/` is committed, so that building needs no protocol compiler. After a change to a
//! `.proto` file, `make proto` writes it anew; the test `generated` fails until it agrees.

/// `detect.v1`: images in, boxes out.
#[allow(missing_docs, clippy::all, clippy::needless_pass_by_value, unused_qualifications)]
pub mod detect {
    /// The first version of the protocol.
    pub mod v1 {
        include!("gen/detect.v1.rs");
    }
}

/// The KServe v2 / Open Inference Protocol with Triton's extensions: tensors in, tensors out.
#[allow(missing_docs, clippy::all, clippy::needless_pass_by_value, unused_qualifications)]
pub mod inference {
    include!("gen/inference.rs");
}

/// All definitions as an encoded `FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");
