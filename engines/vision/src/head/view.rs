//! A model's outputs as the head sees them.

use super::HeadError;

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

impl OutputData<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::F32(_) => "32-bit floats",
            Self::I32(_) => "32-bit integers",
            Self::I64(_) => "64-bit integers",
        }
    }
}

/// The shape of an output as a model declares it.
#[derive(Clone, Copy, Debug)]
pub struct OutputShape<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// Its dimensions; `None` where the model leaves one open.
    pub dims: &'a [Option<usize>],
}

/// The values, which must be floats and as many as the shape says.
pub(super) fn floats<'a>(output: &OutputView<'a>) -> Result<&'a [f32], HeadError> {
    check_length(output)?;
    match output.data {
        OutputData::F32(values) => Ok(values),
        other => Err(data_error(output, "32-bit floats", other.kind())),
    }
}

/// The values, which must be integers and as many as the shape says.
pub(super) fn integers(output: &OutputView<'_>) -> Result<Vec<i64>, HeadError> {
    check_length(output)?;
    match output.data {
        OutputData::I32(values) => Ok(values.iter().map(|value| i64::from(*value)).collect()),
        OutputData::I64(values) => Ok(values.to_vec()),
        OutputData::F32(_) => Err(data_error(output, "integers", output.data.kind())),
    }
}

/// The numbers of one picture of a batch.
pub(super) fn of_image<'a>(output: &OutputView<'a>, image: usize) -> Result<&'a [f32], HeadError> {
    let values = floats(output)?;
    let batch = output.shape.first().copied().unwrap_or(0);
    if image >= batch {
        return Err(HeadError::Image { image, batch });
    }
    let each = values.len() / batch;
    Ok(&values[image * each..][..each])
}

fn check_length(output: &OutputView<'_>) -> Result<(), HeadError> {
    let expected = output.shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
    if expected == Some(output.data.len()) {
        return Ok(());
    }
    let expected = expected.map_or_else(|| "fewer values".to_owned(), |count| format!("{count} values"));
    let got = format!("{} for the shape {:?}", output.data.len(), output.shape);
    Err(HeadError::Data { output: output.name.to_owned(), expected, got })
}

fn data_error(output: &OutputView<'_>, expected: &str, got: &str) -> HeadError {
    HeadError::Data { output: output.name.to_owned(), expected: expected.to_owned(), got: got.to_owned() }
}
