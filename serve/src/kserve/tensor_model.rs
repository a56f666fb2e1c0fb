//! Plain tensor models: the model's own inputs and outputs, by name.

use bytes::{BufMut as _, Bytes, BytesMut};
use detectd_engine::{DataType, ModelSpec, Tensor, TensorData, TensorSpec};

use super::infer::OutputTensor;
use super::tensors::{Datatype, InputData, InputTensor};
use crate::error::Error;

/// The request's inputs in the model's order.
///
/// # Errors
/// INVALID_ARGUMENT: an input that is missing, unknown, or of another type.
pub fn inputs(inputs: Vec<InputTensor>, spec: &ModelSpec) -> Result<Vec<Tensor>, Error> {
    let known = || spec.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(stray) = inputs.iter().find(|input| !spec.inputs.iter().any(|known| known.name == input.name)) {
        return Err(Error::invalid(format!("there is no input `{}`; the model has {}", stray.name, known())));
    }
    let mut inputs: Vec<_> = inputs.into_iter().map(Some).collect();
    let in_order = spec.inputs.iter().map(|wanted| {
        let input = inputs.iter_mut().find(|input| input.as_ref().is_some_and(|input| input.name == wanted.name));
        let input = input.and_then(Option::take);
        let input = input
            .ok_or_else(|| Error::invalid(format!("input `{}` is missing; the model has {}", wanted.name, known())))?;
        tensor(input, wanted)
    });
    in_order.collect()
}

fn tensor(input: InputTensor, wanted: &TensorSpec) -> Result<Tensor, Error> {
    let expected = datatype(wanted.data_type);
    let bytes = match input.data {
        InputData::Fixed(bytes) if input.datatype == expected => bytes,
        _ => {
            let (name, expected, got) = (&wanted.name, expected.name(), input.datatype.name());
            return Err(Error::invalid(format!("input `{name}`: datatype: expected {expected}, got {got}")));
        }
    };
    let data = match wanted.data_type {
        DataType::Fp32 => TensorData::Fp32(elements(&bytes, f32::from_le_bytes)),
        DataType::Int32 => TensorData::Int32(elements(&bytes, i32::from_le_bytes)),
        DataType::Int64 => TensorData::Int64(elements(&bytes, i64::from_le_bytes)),
        DataType::Uint8 => TensorData::Uint8(bytes.into()),
        DataType::Int8 => TensorData::Int8(elements(&bytes, i8::from_le_bytes)),
    };
    Tensor::new(input.shape, data).map_err(|error| Error::invalid(format!("input `{}`: {error}", wanted.name)))
}

fn elements<const N: usize, T>(bytes: &Bytes, read: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

/// The answer's tensors under the model's names.
#[must_use]
pub fn outputs(outputs: &[Tensor], spec: &ModelSpec) -> Vec<OutputTensor> {
    let named = spec.outputs.iter().zip(outputs);
    named
        .map(|(wanted, output)| {
            let mut data = BytesMut::new();
            match output.data() {
                TensorData::Fp32(values) => values.iter().for_each(|value| data.put_f32_le(*value)),
                TensorData::Int32(values) => values.iter().for_each(|value| data.put_i32_le(*value)),
                TensorData::Int64(values) => values.iter().for_each(|value| data.put_i64_le(*value)),
                TensorData::Uint8(values) => data.put_slice(values),
                TensorData::Int8(values) => values.iter().for_each(|value| data.put_i8(*value)),
            }
            let datatype = datatype(output.data().data_type());
            OutputTensor { name: wanted.name.clone(), datatype, shape: output.shape().to_vec(), data: data.freeze() }
        })
        .collect()
}

/// The wire's name of an engine's type.
#[must_use]
pub fn datatype(data_type: DataType) -> Datatype {
    match data_type {
        DataType::Fp32 => Datatype::Fp32,
        DataType::Int32 => Datatype::Int32,
        DataType::Int64 => Datatype::Int64,
        DataType::Uint8 => Datatype::Uint8,
        DataType::Int8 => Datatype::Int8,
    }
}

#[cfg(test)]
mod tests {
    use detectd_engine::{BatchSize, Device, Precision, Stage};

    use super::*;

    fn spec() -> ModelSpec {
        let tensor = |name: &str, data_type| TensorSpec { name: name.into(), data_type, dims: vec![None, Some(2)] };
        ModelSpec {
            engine: "none".into(),
            inputs: vec![tensor("a", DataType::Fp32), tensor("b", DataType::Int64)],
            outputs: vec![tensor("sum", DataType::Int64)],
            precision: Precision::Fp32,
            device: Device::Cpu,
            batch: BatchSize::UpTo(8),
            takes: Stage::Letterboxed,
            detector: None,
        }
    }

    fn input(name: &str, datatype: Datatype, bytes: Vec<u8>) -> InputTensor {
        InputTensor { name: name.into(), datatype, shape: vec![1, 2], data: InputData::Fixed(bytes.into()) }
    }

    #[test]
    fn inputs_are_put_in_the_models_order() {
        let (a, b) = ([1.5f32, -2.0], [7i64, -1]);
        let a = input("a", Datatype::Fp32, a.iter().flat_map(|value| value.to_le_bytes()).collect());
        let b = input("b", Datatype::Int64, b.iter().flat_map(|value| value.to_le_bytes()).collect());
        let tensors = inputs(vec![b.clone(), a], &spec()).unwrap();
        assert_eq!(tensors[0].data(), &TensorData::Fp32(vec![1.5, -2.0]));
        assert_eq!(tensors[1].data(), &TensorData::Int64(vec![7, -1]));
        let back = outputs(&tensors[1..], &spec());
        assert_eq!((back[0].name.as_str(), back[0].datatype, &back[0].shape), ("sum", Datatype::Int64, &vec![1, 2]));
        assert_eq!(InputData::Fixed(back[0].data.clone()), b.data);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let a = || input("a", Datatype::Fp32, vec![0; 8]);
        let message = |these: Vec<InputTensor>| inputs(these, &spec()).unwrap_err().message;
        assert!(message(vec![a()]).contains("input `b` is missing"));
        assert!(message(vec![a(), input("c", Datatype::Fp32, vec![0; 8])]).contains("no input `c`"));
        let wrong = message(vec![a(), input("b", Datatype::Int32, vec![0; 8])]);
        assert!(wrong.contains("expected INT64, got INT32"), "{wrong}");
    }
}
