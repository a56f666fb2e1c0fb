//! An inference answer's body: JSON, and behind it the outputs that were asked for as binary data.

use std::collections::{BTreeMap, HashMap};

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use detectd_proto::inference as wire;
use serde::Serialize;
use serde_json::Value;

use super::elements::Elements;
use super::json::value;
use super::request::Binary;
use crate::error::Error;
use crate::kserve::Datatype;
use crate::rpc::body::too_large;

/// The length of the JSON in front of binary data.
pub const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

#[derive(Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<&'a str, Value>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [i64],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<&'a str, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Elements<'a>>,
}

/// A body, and the length of its JSON if binary data follow.
pub struct Written {
    body: Bytes,
    header: Option<usize>,
}

/// Writes `message`, outputs as `binary` says, in at most `limit` bytes.
///
/// # Errors
/// The answer is longer, or JSON cannot hold an element.
pub fn write(message: &wire::ModelInferResponse, binary: &Binary, limit: usize) -> Result<Written, Error> {
    let mut outputs = Vec::with_capacity(message.outputs.len());
    let mut appended = Vec::new();
    for (output, raw) in message.outputs.iter().zip(&message.raw_output_contents) {
        let mut parameters = values(&output.parameters);
        let in_memory = output.parameters.contains_key("shared_memory_region");
        let is_binary = !in_memory && binary.outputs.get(&output.name).copied().unwrap_or(binary.default);
        if is_binary {
            parameters.insert("binary_data_size", raw.len().into());
            appended.push(raw);
        }
        let datatype = Datatype::parse(&output.datatype).map_err(Error::internal)?;
        let data = (!in_memory && !is_binary).then_some(Elements { datatype, raw });
        if let Some((index, value)) = data.as_ref().and_then(Elements::no_number) {
            let name = &output.name;
            return Err(Error::invalid(format!(
                "output `{name}`: element {index} is {value}, which JSON cannot hold: ask for the output as binary data \
                 (\"binary_data\": true in its parameters)"
            )));
        }
        outputs.push(Output { name: &output.name, datatype: datatype.name(), shape: &output.shape, parameters, data });
    }
    let json = Json {
        id: &message.id,
        model_name: &message.model_name,
        model_version: &message.model_version,
        parameters: values(&message.parameters),
        outputs,
    };
    let mut body = serde_json::to_vec(&json).map_err(|error| Error::internal(format!("the answer: {error}")))?;
    let header = (!appended.is_empty()).then_some(body.len());
    let length = appended.iter().fold(body.len(), |length, raw| length.saturating_add(raw.len()));
    if length > limit {
        return Err(too_large(limit, &format!("an answer of {length} bytes")));
    }
    body.reserve_exact(length - body.len());
    appended.into_iter().for_each(|raw| body.extend_from_slice(raw));
    Ok(Written { body: body.into(), header })
}

impl Written {
    /// The answer.
    pub fn into_response(self) -> Response {
        match self.header {
            None => ([(header::CONTENT_TYPE, "application/json")], self.body).into_response(),
            Some(length) => {
                let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
                (kind, [(HEADER_LENGTH, length)], self.body).into_response()
            }
        }
    }
}

fn values(parameters: &HashMap<String, wire::InferParameter>) -> BTreeMap<&str, Value> {
    parameters.iter().map(|(name, parameter)| (name.as_str(), value(parameter))).collect()
}
