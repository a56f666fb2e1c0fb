//! The protocol's messages as JSON, and parameters of JSON as those of the protocol.

use std::collections::HashMap;

use detectd_proto::FILE_DESCRIPTOR_SET;
use detectd_proto::inference as wire;
use detectd_proto::inference::infer_parameter::ParameterChoice;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bounded::{Object, Parameters, Scalar};
use crate::error::Error;

/// The protocol's definitions.
pub struct Messages {
    pool: DescriptorPool,
}

impl Messages {
    /// Reads the definitions.
    ///
    /// # Errors
    /// They are none.
    pub fn new() -> Result<Self, Error> {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET);
        pool.map(|pool| Self { pool }).map_err(|error| Error::internal(format!("the protocol's definitions: {error}")))
    }

    /// A message of the type `name` as Triton writes it: fields under their own names, those with defaults too, numbers
    /// as numbers.
    ///
    /// # Errors
    /// It is no message of that type.
    pub fn json(&self, name: &str, message: &impl Message) -> Result<Value, Error> {
        let failed = |reason: &dyn std::fmt::Display| Error::internal(format!("{name} as JSON: {reason}"));
        let of = self.pool.get_message_by_name(&format!("inference.{name}"));
        let of = of.ok_or_else(|| failed(&"there is no such message"))?;
        let message = DynamicMessage::decode(of, &*message.encode_to_vec()).map_err(|error| failed(&error))?;
        let options = SerializeOptions::new()
            .use_proto_field_name(true)
            .stringify_64_bit_integers(false)
            .skip_default_fields(false);
        message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| failed(&error))
    }
}

/// Reads a body that is an object; an empty one stands for an empty object.
///
/// # Errors
/// It is no JSON, or not what is expected.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let object = serde_json::from_slice(body).map_err(|error| Error::invalid(format!("the body: {error}")))?;
    let Object(read) = object;
    Ok(read)
}

/// The parameters of a request, an input or an output.
///
/// # Errors
/// One is neither a number, nor a text, nor true or false.
pub fn parameters(parameters: Parameters) -> Result<HashMap<String, wire::InferParameter>, Error> {
    let parameter = |(name, value): (String, Scalar)| {
        let choice = match value {
            Scalar::Bool(value) => ParameterChoice::BoolParam(value),
            Scalar::Text(value) => ParameterChoice::StringParam(value),
            Scalar::Int(value) => ParameterChoice::Int64Param(value),
            Scalar::Uint(value) => ParameterChoice::Uint64Param(value),
            Scalar::Float(value) => ParameterChoice::DoubleParam(value),
            other @ (Scalar::Null | Scalar::Nested(_)) => {
                let message = format!("parameters.{name}: expected a number, a string, true or false, got {other}");
                return Err(Error::invalid(message));
            }
        };
        Ok((name, wire::InferParameter { parameter_choice: Some(choice) }))
    };
    parameters.0.into_iter().map(parameter).collect()
}

/// A parameter of the protocol as JSON.
pub fn value(parameter: &wire::InferParameter) -> Value {
    match &parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => (*value).into(),
        Some(ParameterChoice::Int64Param(value)) => (*value).into(),
        Some(ParameterChoice::Uint64Param(value)) => (*value).into(),
        Some(ParameterChoice::DoubleParam(value)) => (*value).into(),
        Some(ParameterChoice::StringParam(value)) => value.as_str().into(),
        None => Value::Null,
    }
}
