//! An inference request's body: JSON, and the contents of inputs as binary data behind it.

use std::collections::HashMap;

use bytes::Bytes;
use detectd_proto::inference as wire;
use detectd_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::bounded::{Few, Object, Parameters, Scalar};
use super::elements::{self, Wanted};
use super::json::parameters;
use crate::error::Error;
use crate::kserve::{Datatype, dimensions};

const BINARY_SIZE: &str = "binary_data_size";
const BINARY_OUTPUT: &str = "binary_data";
const BINARY_OUTPUTS: &str = "binary_data_output";
const REGION: &str = "shared_memory_region";
/// As other servers of the protocol have it for bytes that are no text.
const CONTENT_TYPE: &str = "content_type";

/// A request, and how its answer is to be written.
pub struct InferRequest {
    /// As gRPC has it.
    pub message: wire::ModelInferRequest,
    /// Which outputs are binary data.
    pub binary: Binary,
    /// Bytes that came as text, and are there a second time now.
    pub copied: usize,
}

/// Which outputs are written as binary data.
#[derive(Clone, Debug, Default)]
pub struct Binary {
    /// Those of which the request says nothing else.
    pub default: bool,
    /// What the request says of one.
    pub outputs: HashMap<String, bool>,
}

/// Fields that are not here mean nothing, as the protocol has it.
#[derive(Deserialize)]
struct Json<'a> {
    id: Option<String>,
    parameters: Option<Parameters>,
    #[serde(borrow)]
    inputs: Few<Object<Input<'a>>>,
    outputs: Option<Few<Object<Output>>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    datatype: String,
    shape: Few<i64>,
    parameters: Option<Parameters>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    parameters: Option<Parameters>,
}

/// Reads a body whose first `header` bytes are JSON. `limit` bounds the contents that come in it.
///
/// # Errors
/// INVALID_ARGUMENT that names what was wrong, what was expected and what came.
pub fn read(body: &Bytes, header: usize, limit: usize) -> Result<InferRequest, Error> {
    if header > body.len() {
        let length = body.len();
        return Err(Error::invalid(format!(
            "Inference-Header-Content-Length: expected at most the {length} bytes of the body, got {header}"
        )));
    }
    let Object(json): Object<Json<'_>> =
        serde_json::from_slice(&body[..header]).map_err(|error| Error::invalid(format!("the request: {error}")))?;
    let mut all = json.parameters.unwrap_or_default();
    let default = switch(all.0.remove(BINARY_OUTPUTS), BINARY_OUTPUTS)?.unwrap_or(false);
    let mut rest = body.slice(header..);
    let mut raw = Vec::with_capacity(json.inputs.0.len());
    let mut inputs = Vec::with_capacity(json.inputs.0.len());
    let mut copied = 0;
    for Object(input) in json.inputs.0 {
        let (name, is_text) = (input.name.clone(), input.data.is_some());
        let (input, contents) = read_input(input, &mut rest, limit.saturating_sub(copied))
            .map_err(|error| error.context(format_args!("input `{name}`")))?;
        copied += contents.as_ref().filter(|_| is_text).map_or(0, Bytes::len);
        inputs.push(input);
        raw.extend(contents);
    }
    if !rest.is_empty() {
        let left = rest.len();
        return Err(Error::invalid(format!(
            "expected no more binary data than the inputs have, got {left} bytes more"
        )));
    }
    let mut binary = Binary { default, outputs: HashMap::new() };
    let mut outputs = Vec::new();
    for Object(Output { name, parameters: of }) in json.outputs.into_iter().flat_map(|outputs| outputs.0) {
        let mut of = of.unwrap_or_default();
        let form = switch(of.0.remove(BINARY_OUTPUT), BINARY_OUTPUT);
        let read = form.and_then(|form| Ok((form, parameters(of)?)));
        let (form, parameters) = read.map_err(|error| error.context(format_args!("output `{name}`")))?;
        binary.outputs.extend(form.map(|form| (name.clone(), form)));
        outputs.push(InferRequestedOutputTensor { name, parameters });
    }
    let message = wire::ModelInferRequest {
        id: json.id.unwrap_or_default(),
        parameters: parameters(all)?,
        inputs,
        outputs,
        raw_input_contents: raw,
        ..wire::ModelInferRequest::default()
    };
    Ok(InferRequest { message, binary, copied })
}

/// An input, and its contents unless they are in shared memory; `rest` is the binary data not taken yet.
fn read_input(input: Input<'_>, rest: &mut Bytes, limit: usize) -> Result<(InferInputTensor, Option<Bytes>), Error> {
    let Input { name, datatype, shape: Few(shape), parameters: of, data } = input;
    let mut of = of.unwrap_or_default();
    let size = of.0.remove(BINARY_SIZE);
    let base64 = match of.0.remove(CONTENT_TYPE) {
        None => false,
        Some(Scalar::Text(base64)) if base64 == "base64" && datatype == Datatype::Bytes.name() && data.is_some() => {
            true
        }
        Some(other) => {
            let expected = "expected nothing, or `base64` for a BYTES input with `data`";
            return Err(Error::invalid(format!("parameters.{CONTENT_TYPE}: {expected}, got {other}")));
        }
    };
    let contents = match (data, size, of.0.contains_key(REGION)) {
        (Some(data), None, false) => {
            let datatype = Datatype::parse(&datatype).map_err(Error::invalid)?;
            let (shape, count) = dimensions(&shape).map_err(Error::invalid)?;
            let wanted = Wanted { datatype, shape: &shape, count, base64, limit };
            Some(elements::read(data, wanted).map_err(Error::invalid)?)
        }
        (None, Some(size), false) => Some(take(rest, &size)?),
        (None, None, true) => None,
        (data, size, region) => {
            let there = [("`data`", data.is_some()), (BINARY_SIZE, size.is_some()), (REGION, region)];
            let there: Vec<_> = there.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
            let got = if there.is_empty() { "none".to_owned() } else { there.join(" and ") };
            return Err(Error::invalid(format!(
                "expected one of `data`, parameters.{BINARY_SIZE} and parameters.{REGION}, got {got}"
            )));
        }
    };
    let parameters = parameters(of)?;
    Ok((InferInputTensor { name, datatype, shape, parameters, contents: None }, contents))
}

fn take(rest: &mut Bytes, size: &Scalar) -> Result<Bytes, Error> {
    let wrong = |expected: &str| Error::invalid(format!("parameters.{BINARY_SIZE}: expected {expected}, got {size}"));
    let length = if let Scalar::Int(size) = size { usize::try_from(*size).ok() } else { None };
    let length = length.ok_or_else(|| wrong("a number of bytes"))?;
    if length > rest.len() {
        return Err(wrong(&format!("at most the {} bytes behind the JSON that are left", rest.len())));
    }
    Ok(rest.split_to(length))
}

fn switch(value: Option<Scalar>, name: &str) -> Result<Option<bool>, Error> {
    match value {
        None => Ok(None),
        Some(Scalar::Bool(value)) => Ok(Some(value)),
        Some(other) => Err(Error::invalid(format!("parameters.{name}: expected true or false, got {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str, binary: &[u8]) -> Result<InferRequest, String> {
        let body = Bytes::from([json.as_bytes(), binary].concat());
        read(&body, json.len(), 1000).map_err(|error| error.message)
    }

    #[test]
    fn json_and_binary_inputs_are_taken_in_their_order() {
        let json = r#"{"id": "7", "model_name": "ignored", "parameters": {"timeout": 5, "binary_data_output": true, "nms": "soft"},
            "inputs": [
                {"name": "a", "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}},
                {"name": "b", "datatype": "UINT8", "shape": [1], "data": [9], "parameters": null},
                {"name": "c", "datatype": "UINT8", "shape": [1], "parameters": {"shared_memory_region": "r"}},
                {"name": "d", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 1}}],
            "outputs": [{"name": "x", "parameters": {"binary_data": false}}, {"name": "y"}]}"#;
        let InferRequest { message, binary, copied } = of(json, &[1, 2, 3]).unwrap();
        assert_eq!(copied, 1);
        assert_eq!(message.id, "7");
        assert_eq!(message.raw_input_contents, [&[1, 2][..], &[9], &[3]]);
        assert_eq!(message.inputs[0].parameters.len(), 0);
        assert_eq!(message.inputs[2].parameters.len(), 1);
        let mut names: Vec<_> = message.parameters.keys().collect();
        names.sort();
        assert_eq!(names, ["nms", "timeout"]);
        assert!(binary.default && !binary.outputs["x"] && !binary.outputs.contains_key("y"));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let input = |more: &str| format!(r#"{{"inputs": [{{"name": "a", "datatype": "UINT8", "shape": [1]{more}}}]}}"#);
        let cases = [
            ("".to_owned(), "the request: EOF"),
            ("[]".to_owned(), "the request: invalid type: sequence, expected an object"),
            (r#"[null, null, [], null]"#.to_owned(), "the request: invalid type: sequence, expected an object"),
            (
                r#"{"inputs": [["a", "UINT8", [1], null, [1]]]}"#.to_owned(),
                "invalid type: sequence, expected an object",
            ),
            (r#"{"inputs": [], "outputs": [["a", null]]}"#.to_owned(), "invalid type: sequence, expected an object"),
            (r#"{"inputs": [], "id": "1", "id": "2"}"#.to_owned(), "duplicate field `id`"),
            ("{}".to_owned(), "missing field `inputs`"),
            (r#"{"inputs": 7}"#.to_owned(), "expected a sequence"),
            (r#"{"inputs": [{"name": "a", "shape": [1]}]}"#.to_owned(), "missing field `datatype`"),
            (r#"{"inputs": [], "id": 7}"#.to_owned(), "expected a string"),
            (
                input(""),
                "input `a`: expected one of `data`, parameters.binary_data_size and parameters.shared_memory_region, got none",
            ),
            (input(r#", "data": [1], "parameters": {"binary_data_size": 1}"#), "got `data` and binary_data_size"),
            (
                input(r#", "parameters": {"binary_data_size": 5}"#),
                "at most the 3 bytes behind the JSON that are left, got 5",
            ),
            (input(r#", "parameters": {"binary_data_size": -1}"#), "expected a number of bytes, got -1"),
            (input(r#", "parameters": {"binary_data_size": 1}"#), "got 2 bytes more"),
            (input(r#", "parameters": {"content_type": "base64"}, "data": [1]"#), "input `a`: parameters.content_type"),
            (
                input(r#", "data": [1], "parameters": {"x": [1]}"#),
                "input `a`: parameters.x: expected a number, a string, true or false, got a list",
            ),
            (input(r#", "data": [300]"#), "input `a`: data: element 0: 300 is no UINT8"),
            (
                r#"{"inputs": [], "parameters": {"binary_data_output": 1}}"#.to_owned(),
                "binary_data_output: expected true or false, got 1",
            ),
        ];
        let many = |element: &str| vec![element; 1001].join(",");
        let bounded = [
            (format!(r#"{{"inputs": [{}]}}"#, many(r#"{"name": "a", "datatype": "UINT8", "shape": [1]}"#)), "elements"),
            (format!(r#"{{"inputs": [], "outputs": [{}]}}"#, many(r#"{"name": "a"}"#)), "elements"),
            (format!(r#"{{"inputs": [{{"name": "a", "datatype": "UINT8", "shape": [{}]}}]}}"#, many("1")), "elements"),
        ];
        let bounded = bounded.map(|(json, what)| (json, format!("expected at most 1000 {what}")));
        let cases = cases.map(|(json, expected)| (json, expected.to_owned()));
        for (json, expected) in cases.into_iter().chain(bounded) {
            let message = of(&json, &[1, 2, 3]).err().unwrap();
            assert!(message.contains(&expected), "{expected}: {message}");
        }
        let message = read(&Bytes::from_static(b"{}"), 3, 10).err().unwrap().message;
        assert!(message.contains("at most the 2 bytes of the body, got 3"), "{message}");
    }
}
