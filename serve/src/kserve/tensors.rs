//! Tensors on the wire: a datatype and a shape, and contents that come raw or typed. Here all become one form, raw
//! bytes of the right length or byte strings of the right number.

use bytes::{BufMut as _, Bytes, BytesMut};
use detectd_proto::inference as wire;

use crate::error::Error;

/// More dimensions than any tensor has.
const MAX_DIMENSIONS: usize = 16;
/// The length before each element of a raw BYTES tensor.
const PREFIX: usize = size_of::<u32>();

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

/// A tensor of a request, its contents checked against its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct InputTensor {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<usize>,
    pub data: InputData,
}

/// The contents of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum InputData {
    /// Elements of one size, little-endian, row-major.
    Fixed(Bytes),
    /// The elements of a BYTES tensor.
    Strings(Vec<Bytes>),
}

/// The contents of a tensor as they came.
#[derive(Clone, Debug)]
pub enum Contents {
    Raw(Bytes),
    Typed(wire::InferTensorContents),
}

impl Datatype {
    const ALL: [(&'static str, Self); 14] = [
        ("BOOL", Self::Bool),
        ("UINT8", Self::Uint8),
        ("UINT16", Self::Uint16),
        ("UINT32", Self::Uint32),
        ("UINT64", Self::Uint64),
        ("INT8", Self::Int8),
        ("INT16", Self::Int16),
        ("INT32", Self::Int32),
        ("INT64", Self::Int64),
        ("FP16", Self::Fp16),
        ("BF16", Self::Bf16),
        ("FP32", Self::Fp32),
        ("FP64", Self::Fp64),
        ("BYTES", Self::Bytes),
    ];

    /// As the protocol writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, datatype)| *datatype == self).map_or("", |(name, _)| name)
    }

    /// Reads a name.
    ///
    /// # Errors
    /// There is none of this name; the message lists those that there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, datatype)| *datatype).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("datatype: expected one of {}, got `{name}`", known.join(", "))
        })
    }

    /// Bytes of one element; `None` where elements differ.
    #[must_use]
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

/// Reads a tensor.
///
/// # Errors
/// INVALID_ARGUMENT that names the input, what was expected and what came.
pub fn input(name: String, datatype: &str, shape: &[i64], contents: Contents) -> Result<InputTensor, Error> {
    let refuse = |message: String| Error::invalid(format!("input `{name}`: {message}"));
    let datatype = Datatype::parse(datatype).map_err(&refuse)?;
    let (dimensions, elements) = dimensions(shape).map_err(&refuse)?;
    let data = match (contents, datatype.size()) {
        (Contents::Raw(raw), Some(size)) => fixed(raw, elements, size, datatype),
        (Contents::Raw(raw), None) => split(&raw, elements).map(InputData::Strings),
        (Contents::Typed(typed), _) => from_typed(typed, datatype, elements),
    };
    let data = data.map_err(&refuse)?;
    Ok(InputTensor { name, datatype, shape: dimensions, data })
}

/// A shape's sizes, and the number of its elements.
///
/// # Errors
/// A size that is none, or more than can be counted.
pub fn dimensions(shape: &[i64]) -> Result<(Vec<usize>, usize), String> {
    if shape.len() > MAX_DIMENSIONS {
        return Err(format!("shape: expected at most {MAX_DIMENSIONS} dimensions, got {}", shape.len()));
    }
    let dimensions: Option<Vec<usize>> = shape.iter().map(|&side| usize::try_from(side).ok()).collect();
    let dimensions = dimensions.ok_or_else(|| format!("shape: expected sizes of 0 and above, got {shape:?}"))?;
    let elements = dimensions.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    let elements = elements.ok_or_else(|| format!("shape: {shape:?} has more elements than can be counted"))?;
    Ok((dimensions, elements))
}

fn fixed(raw: Bytes, elements: usize, size: usize, datatype: Datatype) -> Result<InputData, String> {
    if elements.checked_mul(size) != Some(raw.len()) {
        let (name, got) = (datatype.name(), raw.len());
        return Err(format!("expected {elements} elements of {name}, {size} bytes each, got {got} bytes"));
    }
    Ok(InputData::Fixed(raw))
}

/// The elements of a raw BYTES tensor.
fn split(raw: &Bytes, elements: usize) -> Result<Vec<Bytes>, String> {
    // Each element has its length at least: what a shape promises is not believed.
    let mut strings = Vec::with_capacity(elements.min(raw.len() / PREFIX));
    let mut rest = raw.clone();
    while let Some(prefix) = rest.first_chunk() {
        let index = strings.len();
        if index == elements {
            return Err(format!("expected {elements} elements of BYTES, got {} bytes after the last", rest.len()));
        }
        let length = u32::from_le_bytes(*prefix) as usize;
        let _ = rest.split_to(PREFIX);
        if length > rest.len() {
            return Err(format!("element {index} states {length} bytes, but {} are left", rest.len()));
        }
        strings.push(rest.split_to(length));
    }
    if !rest.is_empty() {
        return Err(format!("expected a length of 4 bytes before each element, got {} at the end", rest.len()));
    }
    if strings.len() != elements {
        return Err(format!("expected {elements} elements of BYTES, got {}", strings.len()));
    }
    Ok(strings)
}

/// Typed contents: exactly the field that the datatype asks for.
fn from_typed(typed: wire::InferTensorContents, datatype: Datatype, elements: usize) -> Result<InputData, String> {
    let lengths = [
        ("bool_contents", typed.bool_contents.len()),
        ("int_contents", typed.int_contents.len()),
        ("int64_contents", typed.int64_contents.len()),
        ("uint_contents", typed.uint_contents.len()),
        ("uint64_contents", typed.uint64_contents.len()),
        ("fp32_contents", typed.fp32_contents.len()),
        ("fp64_contents", typed.fp64_contents.len()),
        ("bytes_contents", typed.bytes_contents.len()),
    ];
    let name = datatype.name();
    let field = match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        Datatype::Fp16 | Datatype::Bf16 => return Err(format!("{name} exists as raw contents only")),
    };
    if let Some((other, _)) = lengths.iter().find(|(other, length)| *other != field && *length > 0) {
        return Err(format!("{name} is expected in `{field}`, got `{other}`"));
    }
    let got = lengths.iter().find(|(name, _)| *name == field).map_or(0, |(_, length)| *length);
    if got != elements {
        return Err(format!("expected {elements} elements in `{field}`, got {got}"));
    }
    let mut raw = BytesMut::with_capacity(elements.saturating_mul(datatype.size().unwrap_or(0)));
    match datatype {
        Datatype::Bool => typed.bool_contents.iter().for_each(|&value| raw.put_u8(value.into())),
        Datatype::Int8 => narrow(&typed.int_contents, name, |value: i8| raw.put_i8(value))?,
        Datatype::Int16 => narrow(&typed.int_contents, name, |value: i16| raw.put_i16_le(value))?,
        Datatype::Int32 => typed.int_contents.iter().for_each(|&value| raw.put_i32_le(value)),
        Datatype::Int64 => typed.int64_contents.iter().for_each(|&value| raw.put_i64_le(value)),
        Datatype::Uint8 => narrow(&typed.uint_contents, name, |value: u8| raw.put_u8(value))?,
        Datatype::Uint16 => narrow(&typed.uint_contents, name, |value: u16| raw.put_u16_le(value))?,
        Datatype::Uint32 => typed.uint_contents.iter().for_each(|&value| raw.put_u32_le(value)),
        Datatype::Uint64 => typed.uint64_contents.iter().for_each(|&value| raw.put_u64_le(value)),
        Datatype::Fp32 => typed.fp32_contents.iter().for_each(|&value| raw.put_f32_le(value)),
        Datatype::Fp64 => typed.fp64_contents.iter().for_each(|&value| raw.put_f64_le(value)),
        Datatype::Bytes | Datatype::Fp16 | Datatype::Bf16 => return Ok(InputData::Strings(typed.bytes_contents)),
    }
    Ok(InputData::Fixed(raw.freeze()))
}

fn narrow<W, T>(values: &[W], name: &str, mut put: impl FnMut(T)) -> Result<(), String>
where
    W: Copy + std::fmt::Display,
    T: TryFrom<W>,
{
    for (index, &value) in values.iter().enumerate() {
        put(T::try_from(value).map_err(|_| format!("element {index}: {value} is no {name}"))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(datatype: &str, shape: &[i64], bytes: &[u8]) -> Result<InputData, String> {
        let contents = Contents::Raw(Bytes::copy_from_slice(bytes));
        input("x".into(), datatype, shape, contents).map(|tensor| tensor.data).map_err(|error| error.message)
    }

    fn typed(datatype: &str, shape: &[i64], contents: wire::InferTensorContents) -> Result<InputData, String> {
        input("x".into(), datatype, shape, Contents::Typed(contents))
            .map(|tensor| tensor.data)
            .map_err(|error| error.message)
    }

    #[test]
    fn raw_byte_strings_are_split_at_their_lengths() {
        let bytes = [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0, 1, 0, 0, 0, b'c'];
        let expected = InputData::Strings(vec!["ab".into(), "".into(), "c".into()]);
        assert_eq!(raw("BYTES", &[3], &bytes), Ok(expected.clone()));
        assert_eq!(raw("BYTES", &[3, 1], &bytes), Ok(expected));
    }

    #[test]
    fn raw_and_typed_numbers_become_the_same_bytes() {
        let int = wire::InferTensorContents { int_contents: vec![-2, 1], ..Default::default() };
        let uint = wire::InferTensorContents { uint_contents: vec![255, 1], ..Default::default() };
        let fp32 = wire::InferTensorContents { fp32_contents: vec![1.5, -2.0], ..Default::default() };
        let fp64 = wire::InferTensorContents { fp64_contents: vec![1.5, -2.0], ..Default::default() };
        let long = wire::InferTensorContents { int64_contents: vec![-1, 7], ..Default::default() };
        let cases: [(&str, wire::InferTensorContents, Vec<u8>); 7] = [
            ("INT8", int.clone(), vec![254, 1]),
            ("INT16", int.clone(), [-2i16, 1].map(i16::to_le_bytes).concat()),
            ("INT32", int, [-2i32, 1].map(i32::to_le_bytes).concat()),
            ("UINT8", uint, vec![255, 1]),
            ("FP32", fp32, [1.5f32, -2.0].map(f32::to_le_bytes).concat()),
            ("FP64", fp64, [1.5f64, -2.0].map(f64::to_le_bytes).concat()),
            ("INT64", long, [-1i64, 7].map(i64::to_le_bytes).concat()),
        ];
        for (datatype, contents, bytes) in cases {
            let expected = raw(datatype, &[2], &bytes);
            assert!(expected.is_ok());
            assert_eq!(typed(datatype, &[2], contents), expected, "{datatype}");
        }
    }

    #[test]
    fn contents_that_do_not_fit_are_named() {
        let uint = wire::InferTensorContents { uint_contents: vec![256], ..Default::default() };
        let cases = [
            (raw("FLOAT", &[1], &[0; 4]), "got `FLOAT`"),
            (raw("FP32", &[2], &[0; 4]), "expected 2 elements of FP32, 4 bytes each, got 4 bytes"),
            (raw("FP32", &[-1], &[0; 4]), "got [-1]"),
            (raw("FP32", &[i64::MAX, i64::MAX], &[]), "more elements than can be counted"),
            (raw("UINT8", &[1; 17], &[0]), "at most 16 dimensions, got 17"),
            (raw("BYTES", &[1], &[5, 0, 0, 0, 1]), "element 0 states 5 bytes, but 1 are left"),
            (raw("BYTES", &[1], &[0, 0]), "a length of 4 bytes before each element, got 2"),
            (raw("BYTES", &[2], &[0; 4]), "expected 2 elements of BYTES, got 1"),
            (raw("BYTES", &[1], &[0; 8]), "expected 1 elements of BYTES, got 4 bytes after the last"),
            (raw("BYTES", &[i64::MAX], &[]), "got 0"),
            (typed("UINT8", &[1], uint.clone()), "element 0: 256 is no UINT8"),
            (typed("FP32", &[1], uint.clone()), "expected in `fp32_contents`, got `uint_contents`"),
            (typed("FP16", &[1], uint.clone()), "raw contents only"),
            (typed("UINT32", &[2], uint), "expected 2 elements in `uint_contents`, got 1"),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err();
            assert!(message.starts_with("input `x`: ") && message.contains(expected), "{message}");
        }
    }
}
