//! Several callers' tensors in one execution: put together along the first dimension, and the outputs taken apart again.

use std::ops::Range;

use crate::{Batch, BatchSize, EngineError, ModelSpec, Tensor, TensorData};

impl Batch {
    /// Puts the rows of `parts` below each other, and fills up with zeros to `rows`.
    ///
    /// # Errors
    /// [`EngineError::Shape`] when the parts differ in more than their first dimension, or have more rows than `rows`.
    pub fn concatenate(parts: &[Self], rows: usize) -> Result<Self, EngineError> {
        let Some(first) = parts.first() else { return Ok(Self::default()) };
        let inputs = first.inputs.iter().enumerate().map(|(index, input)| {
            let Some((_, dims)) = input.shape().split_first() else {
                return Err(EngineError::Shape("a scalar has no rows to put together".into()));
            };
            let shape: Vec<_> = std::iter::once(rows).chain(dims.iter().copied()).collect();
            let mut data = TensorData::zeros(input.data().data_type(), shape.iter().product());
            let mut filled = 0;
            for part in parts {
                let fits = |tensor: &&Tensor| tensor.shape().get(1..) == Some(dims);
                let tensor = part.inputs.get(index).filter(fits);
                if !tensor.is_some_and(|tensor| data.copy_in(filled, tensor.data())) {
                    return Err(EngineError::Shape(format!(
                        "input {index}: what is executed together differs in type or shape, or is more than {rows} rows"
                    )));
                }
                filled += tensor.map_or(0, |tensor| tensor.data().len());
            }
            Tensor::new(shape, data)
        });
        Ok(Self { inputs: inputs.collect::<Result<_, _>>()? })
    }
}

impl ModelSpec {
    /// Takes the outputs of an execution of `executed` rows apart again, for callers with `rows` each. Rows beyond
    /// theirs, which filled a fixed batch up, are left out.
    ///
    /// # Errors
    /// [`EngineError::Backend`] that names an output whose first dimension is not the batch.
    pub fn split(
        &self,
        outputs: Vec<Tensor>,
        rows: &[usize],
        executed: usize,
    ) -> Result<Vec<Vec<Tensor>>, EngineError> {
        if outputs.len() != self.outputs.len() {
            return Err(EngineError::Backend(format!("{} outputs, expected {}", outputs.len(), self.outputs.len())));
        }
        if self.batch == BatchSize::Absent {
            return Ok(vec![outputs]);
        }
        for (spec, output) in self.outputs.iter().zip(&outputs) {
            if output.shape().first() != Some(&executed) {
                return Err(EngineError::Backend(format!(
                    "output {} came as {} {:?} from a batch of {executed}: its first dimension must be the batch",
                    spec.name,
                    output.data().data_type(),
                    output.shape()
                )));
            }
        }
        if rows == [executed] {
            return Ok(vec![outputs]);
        }
        let mut first = 0;
        rows.iter()
            .map(|&count| {
                let range = first..first + count;
                first += count;
                outputs.iter().map(|output| output.rows(range.clone())).collect()
            })
            .collect()
    }
}

impl Tensor {
    /// Some of the rows.
    fn rows(&self, range: Range<usize>) -> Result<Self, EngineError> {
        let (&all, dims) = self.shape().split_first().unwrap_or((&0, &[]));
        if range.end > all {
            return Err(EngineError::Shape(format!("rows {range:?} of a tensor that has {all}")));
        }
        let len: usize = dims.iter().product();
        let shape = std::iter::once(range.len()).chain(dims.iter().copied()).collect();
        Self::new(shape, self.data().slice(range.start * len..range.end * len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataType, Device, Precision, Stage, TensorSpec};

    fn floats(shape: &[usize], first: f32) -> Tensor {
        let len = shape.iter().product::<usize>();
        let data = (0..len).map(|index| first + index as f32).collect();
        Tensor::new(shape.to_vec(), TensorData::Fp32(data)).unwrap()
    }

    fn spec(batch: BatchSize) -> ModelSpec {
        let output = |name: &str| TensorSpec { name: name.into(), data_type: DataType::Fp32, dims: vec![None, None] };
        ModelSpec {
            engine: "test".into(),
            inputs: Vec::new(),
            outputs: vec![output("a"), output("b")],
            precision: Precision::Fp32,
            device: Device::Cpu,
            batch,
            takes: Stage::Letterboxed,
            detector: None,
        }
    }

    #[test]
    fn what_is_put_together_comes_apart_again() {
        let batch =
            |rows: usize, first: f32| Batch { inputs: vec![floats(&[rows, 2], first), floats(&[rows, 3], first)] };
        let parts = [batch(1, 1.0), batch(2, 10.0)];
        let whole = Batch::concatenate(&parts, 4).unwrap();
        let TensorData::Fp32(data) = whole.inputs[0].data() else { panic!("floats") };
        assert_eq!(whole.inputs[0].shape(), [4, 2]);
        assert_eq!(data[..], [1.0, 2.0, 10.0, 11.0, 12.0, 13.0, 0.0, 0.0], "filled up with zeros");
        let apart = spec(BatchSize::Fixed(4)).split(whole.inputs, &[1, 2], 4).unwrap();
        assert_eq!(apart, parts.map(|part| part.inputs));
    }

    #[test]
    fn every_type_is_kept() {
        for data_type in [DataType::Fp32, DataType::Int32, DataType::Int64, DataType::Uint8, DataType::Int8] {
            let batch = Batch { inputs: vec![Tensor::new(vec![1, 2], TensorData::zeros(data_type, 2)).unwrap()] };
            let whole = Batch::concatenate(&[batch.clone(), batch], 2).unwrap();
            let rows = whole.inputs[0].rows(1..2).unwrap();
            assert_eq!((rows.data().data_type(), rows.shape()), (data_type, &[1, 2][..]));
        }
    }

    #[test]
    fn parts_that_differ_are_refused() {
        let one = |tensor| Batch { inputs: vec![tensor] };
        let integers = Tensor::new(vec![1, 2], TensorData::Int32(vec![1, 2])).unwrap();
        for wrong in [one(floats(&[1, 3], 0.0)), one(integers), one(floats(&[2, 2], 0.0)), Batch::default()] {
            let parts = [one(floats(&[1, 2], 0.0)), wrong];
            assert!(matches!(Batch::concatenate(&parts, 2), Err(EngineError::Shape(_))), "{parts:?}");
        }
    }

    #[test]
    fn outputs_without_the_batch_are_named() {
        let outputs = || vec![floats(&[3, 1], 0.0), floats(&[1, 3], 0.0)];
        let message = spec(BatchSize::UpTo(8)).split(outputs(), &[1, 2], 3).unwrap_err().to_string();
        assert!(message.contains("output b came as FP32 [1, 3] from a batch of 3"), "{message}");
        assert!(spec(BatchSize::UpTo(8)).split(vec![floats(&[3, 1], 0.0)], &[3], 3).is_err(), "an output is missing");
        assert_eq!(spec(BatchSize::Absent).split(outputs(), &[1], 1).unwrap(), [outputs()]);
    }
}
