//! A model's outputs as the head sees them.

/// One output of a whole batch.
#[derive(Clone, Copy, Debug)]
pub struct OutputView<'a> {
    /// The tensor's name, for messages.
    pub name: &'a str,
    /// Its shape; the batch comes first, except in Paddle's `[K, 6]`.
    pub shape: &'a [usize],
    /// Its values, row-major.
    pub data: OutputData<'a>,
}

/// The values of an output.
#[derive(Clone, Copy, Debug)]
pub enum OutputData<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// 64-bit integers.
    I64(&'a [i64]),
}

/// The shape of an output as a model declares it.
#[derive(Clone, Copy, Debug)]
pub struct OutputShape<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// Its dimensions; `None` where the model leaves one open.
    pub dims: &'a [Option<usize>],
}
