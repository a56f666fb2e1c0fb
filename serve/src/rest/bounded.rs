//! Parts of a request's JSON that are checked while they are read. What they become is bounded: a body of many megabytes
//! must not become a hundred times as many. An object is an object: a list with the fields in their order is none.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The most inputs, outputs or dimensions in one list, and the most parameters in one object.
pub const MOST: usize = 1000;

/// Parameters as a request has them.
#[derive(Debug, Default)]
pub struct Parameters(pub HashMap<String, Scalar>);

/// What only an object can be read as.
#[derive(Debug)]
pub struct Object<T>(pub T);

/// A list that is not long.
#[derive(Debug)]
pub struct Few<T>(pub Vec<T>);

/// The value of a parameter.
#[derive(Debug, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// What is no `Int`.
    Uint(u64),
    Float(f64),
    Text(String),
    /// No scalar, but what is named; its content is not kept.
    Nested(&'static str),
}

/// As JSON has it.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Uint(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Nested(what) => f.write_str(what),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a string, true or false")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(value).map_or(Scalar::Uint(value), Scalar::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Scalar, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested("an object"))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object)).map(Object)
    }
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParametersVisitor)
    }
}

struct ParametersVisitor;

impl<'de> Visitor<'de> for ParametersVisitor {
    type Value = Parameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Parameters, A::Error> {
        let mut parameters = HashMap::new();
        while let Some((name, value)) = object.next_entry()? {
            if parameters.len() == MOST {
                return Err(A::Error::custom(format_args!("expected at most {MOST} parameters, got more")));
            }
            match parameters.entry(name) {
                Entry::Vacant(place) => drop(place.insert(value)),
                Entry::Occupied(there) => {
                    return Err(A::Error::custom(format_args!("the parameter `{}` is there twice", there.key())));
                }
            }
        }
        Ok(Parameters(parameters))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FewVisitor(Vec::new()))
    }
}

struct FewVisitor<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FewVisitor<T> {
    type Value = Few<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Few<T>, A::Error> {
        while let Some(element) = list.next_element()? {
            if self.0.len() == MOST {
                return Err(A::Error::custom(format_args!("expected at most {MOST} elements in a list, got more")));
            }
            self.0.push(element);
        }
        Ok(Few(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_kept_and_what_holds_others_is_only_named() {
        let cases = [
            ("null", Scalar::Null, "null"),
            ("true", Scalar::Bool(true), "true"),
            ("-7", Scalar::Int(-7), "-7"),
            ("9223372036854775807", Scalar::Int(i64::MAX), "9223372036854775807"),
            ("18446744073709551615", Scalar::Uint(u64::MAX), "18446744073709551615"),
            ("0.5", Scalar::Float(0.5), "0.5"),
            (r#""a\nb""#, Scalar::Text("a\nb".into()), r#""a\nb""#),
            ("[1, [2], {}]", Scalar::Nested("a list"), "a list"),
            (r#"{"a": [1]}"#, Scalar::Nested("an object"), "an object"),
        ];
        for (json, expected, shown) in cases {
            let scalar: Scalar = serde_json::from_str(json).unwrap();
            assert_eq!((scalar.to_string().as_str(), scalar), (shown, expected));
        }
        assert!(serde_json::from_str::<Scalar>("[1").is_err());
    }

    #[test]
    fn a_list_is_no_object_and_a_name_is_there_once() {
        #[derive(Debug, Deserialize)]
        struct Named {
            name: String,
        }
        let read = |json: &str| serde_json::from_str::<Object<Named>>(json).map_err(|error| error.to_string());
        assert_eq!(read(r#"{"name": "a"}"#).unwrap().0.name, "a");
        for (json, expected) in [
            (r#"["a"]"#, "invalid type: sequence, expected an object"),
            ("7", "invalid type: integer `7`, expected an object"),
            (r#"{"name": "a", "name": "b"}"#, "duplicate field `name`"),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
        let twice = serde_json::from_str::<Parameters>(r#"{"a": 1, "b": 1, "a": 2}"#).unwrap_err().to_string();
        assert!(twice.starts_with("the parameter `a` is there twice"), "{twice}");
    }

    #[test]
    fn a_list_and_an_object_have_a_most() {
        let list = |count: usize| serde_json::from_str::<Few<u8>>(&format!("{:?}", vec![1; count]));
        assert_eq!(list(MOST).unwrap().0.len(), MOST);
        assert!(list(MOST + 1).unwrap_err().to_string().starts_with("expected at most 1000 elements"));
        let object = |count: usize| {
            let entries: Vec<_> = (0..count).map(|entry| format!("\"{entry}\": 1")).collect();
            serde_json::from_str::<Parameters>(&format!("{{{}}}", entries.join(",")))
        };
        assert_eq!(object(MOST).unwrap().0.len(), MOST);
        assert!(object(MOST + 1).unwrap_err().to_string().starts_with("expected at most 1000 parameters"));
    }
}
