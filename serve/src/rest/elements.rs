//! The elements of a tensor in JSON: a flat list, or lists in lists as the shape says.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::kserve::Datatype;

/// What the elements in a request's `data` are to be.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Their type.
    pub datatype: Datatype,
    /// The tensor's shape.
    pub shape: &'a [usize],
    /// The product of the shape.
    pub count: usize,
    /// Strings are base64 of the bytes that are meant.
    pub base64: bool,
    /// The most bytes that they may take.
    pub limit: usize,
}

/// Reads elements as raw contents.
///
/// # Errors
/// What is wrong, without the input's name.
pub fn read(data: &RawValue, wanted: Wanted<'_>) -> Result<Bytes, String> {
    if matches!(wanted.datatype, Datatype::Fp16 | Datatype::Bf16) {
        return Err(format!("data: {} exists as binary data only", wanted.datatype.name()));
    }
    let mut reader = Reader { wanted, raw: BytesMut::new(), count: 0, level: None };
    let mut json = serde_json::Deserializer::from_str(data.get());
    Entry { reader: &mut reader, level: None }.deserialize(&mut json).map_err(|error| {
        let text = error.to_string();
        // The place is one within `data`, which would only mislead.
        format!("data: {}", text.split_once(" at line ").map_or(text.as_str(), |(reason, _)| reason))
    })?;
    if reader.count != wanted.count {
        let Wanted { shape, count, .. } = wanted;
        return Err(format!("data: expected {count} elements, as the shape {shape:?} says, got {}", reader.count));
    }
    Ok(reader.raw.freeze())
}

struct Reader<'a> {
    wanted: Wanted<'a>,
    raw: BytesMut,
    count: usize,
    /// The level of the lists that hold elements.
    level: Option<usize>,
}

/// The next thing in a list of this level; at first there is none.
struct Entry<'r, 'a> {
    reader: &'r mut Reader<'a>,
    level: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Entry<'_, '_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Entry<'_, '_> {
    /// An element was found: counts it.
    fn element<E: de::Error>(&mut self, came: &dyn fmt::Display) -> Result<Datatype, E> {
        let Wanted { datatype, shape, limit, .. } = self.reader.wanted;
        let level = self.level.ok_or_else(|| E::custom(format_args!("expected a list, got {came}")))?;
        // A flat list, or one as deep as the shape.
        let deepest = shape.len().saturating_sub(1);
        if *self.reader.level.get_or_insert(level) != level || (level != 0 && level != deepest) {
            return Err(E::custom(format_args!("expected a flat list or lists as the shape {shape:?} says")));
        }
        self.reader.count += 1;
        if self.reader.raw.len() > limit {
            return Err(E::custom(format_args!("expected at most {limit} bytes, server.max_message_bytes, got more")));
        }
        Ok(datatype)
    }

    fn whole<E: de::Error>(mut self, value: i128) -> Result<(), E> {
        let datatype = self.element(&value)?;
        let raw = &mut self.reader.raw;
        let put = match datatype {
            Datatype::Uint8 => u8::try_from(value).map(|value| raw.put_u8(value)).is_ok(),
            Datatype::Uint16 => u16::try_from(value).map(|value| raw.put_u16_le(value)).is_ok(),
            Datatype::Uint32 => u32::try_from(value).map(|value| raw.put_u32_le(value)).is_ok(),
            Datatype::Uint64 => u64::try_from(value).map(|value| raw.put_u64_le(value)).is_ok(),
            Datatype::Int8 => i8::try_from(value).map(|value| raw.put_i8(value)).is_ok(),
            Datatype::Int16 => i16::try_from(value).map(|value| raw.put_i16_le(value)).is_ok(),
            Datatype::Int32 => i32::try_from(value).map(|value| raw.put_i32_le(value)).is_ok(),
            Datatype::Int64 => i64::try_from(value).map(|value| raw.put_i64_le(value)).is_ok(),
            Datatype::Fp32 => {
                raw.put_f32_le(value as f32);
                true
            }
            Datatype::Fp64 => {
                raw.put_f64_le(value as f64);
                true
            }
            Datatype::Bool | Datatype::Bytes | Datatype::Fp16 | Datatype::Bf16 => false,
        };
        if put { Ok(()) } else { Err(self.mismatch(&value)) }
    }

    fn mismatch<E: de::Error>(&self, came: &dyn fmt::Display) -> E {
        let (index, name) = (self.reader.count.saturating_sub(1), self.reader.wanted.datatype.name());
        E::custom(format_args!("element {index}: {came} is no {name}"))
    }
}

impl<'de> Visitor<'de> for Entry<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or lists of it", self.reader.wanted.datatype.name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { reader, level } = self;
        let level = level.map_or(0, |level| level + 1);
        let shape = reader.wanted.shape;
        if level > shape.len().saturating_sub(1) {
            return Err(de::Error::custom(format_args!("expected a flat list or lists as the shape {shape:?} says")));
        }
        let mut length = 0;
        while list.next_element_seed(Entry { reader: &mut *reader, level: Some(level) })?.is_some() {
            length += 1;
        }
        let is_flat = reader.level.is_none_or(|elements| elements == 0);
        if !is_flat && shape.get(level) != Some(&length) {
            let message = format_args!("expected lists as the shape {shape:?} says, got one of {length}");
            return Err(de::Error::custom(message));
        }
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.whole(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.whole(value.into())
    }

    fn visit_f64<E: de::Error>(mut self, value: f64) -> Result<(), E> {
        match self.element(&value)? {
            Datatype::Fp32 if (value as f32).is_finite() => self.reader.raw.put_f32_le(value as f32),
            Datatype::Fp64 => self.reader.raw.put_f64_le(value),
            _ => return Err(self.mismatch(&value)),
        }
        Ok(())
    }

    fn visit_bool<E: de::Error>(mut self, value: bool) -> Result<(), E> {
        if self.element(&value)? != Datatype::Bool {
            return Err(self.mismatch(&value));
        }
        self.reader.raw.put_u8(value.into());
        Ok(())
    }

    fn visit_str<E: de::Error>(mut self, text: &str) -> Result<(), E> {
        if self.element(&"a string")? != Datatype::Bytes {
            return Err(self.mismatch(&"a string"));
        }
        let decoded;
        let bytes = if self.reader.wanted.base64 {
            decoded = STANDARD.decode(text).map_err(|error| self.mismatch(&format_args!("base64 ({error})")))?;
            &decoded
        } else {
            text.as_bytes()
        };
        let length = u32::try_from(bytes.len()).map_err(|_| self.mismatch(&"a string of more than 4 GiB"))?;
        self.reader.raw.put_u32_le(length);
        self.reader.raw.put_slice(bytes);
        Ok(())
    }

    fn visit_unit<E: de::Error>(mut self) -> Result<(), E> {
        self.element(&"null")?;
        Err(self.mismatch(&"null"))
    }

    fn visit_map<A: de::MapAccess<'de>>(mut self, _: A) -> Result<(), A::Error> {
        self.element(&"an object")?;
        Err(self.mismatch(&"an object"))
    }
}

/// The elements of an answer's tensor as a flat list. JSON has no way to write those that are [`Elements::no_number`].
pub struct Elements<'a> {
    /// Their type.
    pub datatype: Datatype,
    /// Raw contents.
    pub raw: &'a [u8],
}

impl Elements<'_> {
    /// The first element that is infinite or no number, and its index.
    pub fn no_number(&self) -> Option<(usize, f64)> {
        match self.datatype {
            Datatype::Fp32 => no_number(numbers(self.raw, f32::from_le_bytes).map(f64::from)),
            Datatype::Fp64 => no_number(numbers(self.raw, f64::from_le_bytes)),
            _ => None,
        }
    }
}

fn no_number(elements: impl Iterator<Item = f64>) -> Option<(usize, f64)> {
    elements.enumerate().find(|(_, value)| !value.is_finite())
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw = self.raw;
        match self.datatype {
            Datatype::Bool => serializer.collect_seq(raw.iter().map(|&value| value != 0)),
            Datatype::Uint8 => serializer.collect_seq(raw),
            Datatype::Uint16 => serializer.collect_seq(numbers(raw, u16::from_le_bytes)),
            Datatype::Uint32 => serializer.collect_seq(numbers(raw, u32::from_le_bytes)),
            Datatype::Uint64 => serializer.collect_seq(numbers(raw, u64::from_le_bytes)),
            Datatype::Int8 => serializer.collect_seq(numbers(raw, i8::from_le_bytes)),
            Datatype::Int16 => serializer.collect_seq(numbers(raw, i16::from_le_bytes)),
            Datatype::Int32 => serializer.collect_seq(numbers(raw, i32::from_le_bytes)),
            Datatype::Int64 => serializer.collect_seq(numbers(raw, i64::from_le_bytes)),
            Datatype::Fp32 => serializer.collect_seq(numbers(raw, f32::from_le_bytes)),
            Datatype::Fp64 => serializer.collect_seq(numbers(raw, f64::from_le_bytes)),
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
                let name = self.datatype.name();
                Err(ser::Error::custom(format_args!("{name} exists in answers as binary data only")))
            }
        }
    }
}

fn numbers<'a, const N: usize, T>(raw: &'a [u8], read: fn([u8; N]) -> T) -> impl Iterator<Item = T> + 'a
where
    T: 'a,
{
    raw.as_chunks::<N>().0.iter().map(move |chunk| read(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str, datatype: &str, shape: &[usize]) -> Result<Bytes, String> {
        let data: Box<RawValue> = serde_json::from_str(json).unwrap();
        let datatype = Datatype::parse(datatype).unwrap();
        let count = shape.iter().product();
        read(&data, Wanted { datatype, shape, count, base64: false, limit: 100 })
    }

    #[test]
    fn flat_and_nested_lists_are_the_same() {
        let expected = Bytes::from_static(&[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
        for json in ["[1,2,3,4,5,6]", "[[1,2,3],[4,5,6]]", " [ [ 1 , 2,3],\n[4,5,6] ] "] {
            assert_eq!(of(json, "INT16", &[2, 3]), Ok(expected.clone()), "{json}");
        }
        assert_eq!(of("[[[1,2,3]],[[4,5,6]]]", "INT16", &[2, 1, 3]), Ok(expected));
        assert_eq!(of("[7]", "UINT8", &[]), Ok(Bytes::from_static(&[7])));
        assert_eq!(of("[]", "UINT8", &[0]), Ok(Bytes::new()));
        assert_eq!(of("[[],[]]", "UINT8", &[2, 0]), Ok(Bytes::new()));
    }

    #[test]
    fn every_type_is_read_and_written() {
        let cases = [
            ("BOOL", "[true,false]"),
            ("UINT8", "[0,255]"),
            ("UINT16", "[0,65535]"),
            ("UINT32", "[0,4294967295]"),
            ("UINT64", "[0,18446744073709551615]"),
            ("INT8", "[-128,127]"),
            ("INT16", "[-32768,32767]"),
            ("INT32", "[-2147483648,2147483647]"),
            ("INT64", "[-9223372036854775808,9223372036854775807]"),
            ("FP32", "[-0.1,16777216.0]"),
            ("FP64", "[-0.1,1e300]"),
        ];
        for (datatype, json) in cases {
            let raw = of(json, datatype, &[2]).unwrap();
            let elements = Elements { datatype: Datatype::parse(datatype).unwrap(), raw: &raw };
            let (written, expected): (Vec<serde_json::Value>, Vec<serde_json::Value>) = (
                serde_json::from_value(serde_json::to_value(elements).unwrap()).unwrap(),
                serde_json::from_str(json).unwrap(),
            );
            let close = |a: &serde_json::Value, b: &serde_json::Value| match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-7 * b.abs(),
                _ => a == b,
            };
            assert!(written.iter().zip(&expected).all(|(a, b)| close(a, b)), "{datatype}: {written:?} {expected:?}");
            assert_eq!(written.len(), 2);
        }
        assert_eq!(of("[1, 2.5]", "FP32", &[2]).unwrap()[..4], 1.0f32.to_le_bytes());
        let infinite = [1.5f32.to_le_bytes(), f32::INFINITY.to_le_bytes()].concat();
        assert_eq!(Elements { datatype: Datatype::Fp32, raw: &infinite }.no_number(), Some((1, f64::INFINITY)));
        assert_eq!(Elements { datatype: Datatype::Fp32, raw: &infinite[..4] }.no_number(), None);
        assert!(Elements { datatype: Datatype::Fp64, raw: &f64::NAN.to_le_bytes() }.no_number().is_some());
    }

    #[test]
    fn strings_have_their_length_before_them_and_may_be_base64() {
        let raw = of(r#"["ab", "\u00fc"]"#, "BYTES", &[2]).unwrap();
        assert_eq!(raw[..], *b"\x02\0\0\0ab\x02\0\0\0\xc3\xbc");
        let data: Box<RawValue> = serde_json::from_str(r#"["AP8="]"#).unwrap();
        let wanted = Wanted { datatype: Datatype::Bytes, shape: &[1], count: 1, base64: true, limit: 100 };
        assert_eq!(read(&data, wanted).unwrap()[..], [2, 0, 0, 0, 0, 255]);
        let data: Box<RawValue> = serde_json::from_str(r#"["A?"]"#).unwrap();
        assert!(read(&data, wanted).unwrap_err().starts_with("data: element 0: base64 ("));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let cases = [
            (of("[1,2,3]", "FP32", &[2, 2]), "data: expected 4 elements, as the shape [2, 2] says, got 3"),
            (of("[[1,2,3],[4,5,6]]", "FP32", &[3, 2]), "data: expected lists as the shape [3, 2] says, got one of 3"),
            (of("[[1,2],[3]]", "FP32", &[2, 2]), "data: expected lists as the shape [2, 2] says, got one of 1"),
            (of("[[1],2]", "FP32", &[2, 1]), "data: expected a flat list or lists as the shape [2, 1] says"),
            (of("[[1],[2]]", "FP32", &[2]), "data: expected a flat list or lists as the shape [2] says"),
            (of("7", "FP32", &[1]), "data: expected a list, got 7"),
            (of("{}", "FP32", &[1]), "data: expected a list, got an object"),
            (of("[null]", "FP32", &[1]), "data: element 0: null is no FP32"),
            (of("[{}]", "FP32", &[1]), "data: element 0: an object is no FP32"),
            (of("[1,300]", "UINT8", &[2]), "data: element 1: 300 is no UINT8"),
            (of("[-1]", "UINT64", &[1]), "data: element 0: -1 is no UINT64"),
            (of("[1.5]", "INT32", &[1]), "data: element 0: 1.5 is no INT32"),
            (of("[1e39]", "FP32", &[1]), "data: element 0: 1"),
            (of("[true]", "UINT8", &[1]), "data: element 0: true is no UINT8"),
            (of("[1]", "BOOL", &[1]), "data: element 0: 1 is no BOOL"),
            (of(r#"["a"]"#, "FP32", &[1]), "data: element 0: a string is no FP32"),
            (of("[1]", "FP16", &[1]), "data: FP16 exists as binary data only"),
            (of(&format!("[{}1]", "1,".repeat(40)), "FP32", &[41]), "data: expected at most 100 bytes"),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
