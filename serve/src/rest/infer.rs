//! `POST /v2/models/{model}[/versions/{version}]/infer`.

use std::collections::HashMap;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use detectd_proto::inference as wire;

use super::calls::{In, Named};
use super::request::{self, Binary, InferRequest};
use super::response::{self, HEADER_LENGTH};
use super::{LONG_JSON, Rest};
use crate::error::Error;
use crate::rpc::status::{log_answer, to_response};

/// Answers one request.
pub async fn infer(State(rest): State<Rest>, In(named): In<Named>, request: Request) -> Response {
    let deadline = rest.deadline();
    let mut id = String::new();
    match answer(&rest, named, request, deadline, &mut id).await {
        Ok(response) => {
            log_answer(&id);
            response
        }
        Err(error) => to_response(&error, &id),
    }
}

/// `id` becomes the request's as soon as it is known.
async fn answer(
    rest: &Rest,
    Named { model, version }: Named,
    request: Request,
    deadline: Option<Instant>,
    id: &mut String,
) -> Result<Response, Error> {
    let header = header_length(request.headers());
    // Its part of the budget is held until the answer is there.
    let (body, held) = rest.read(request, deadline, rest.message_limit()).await?;
    let InferRequest { mut message, binary, copied } = match header? {
        Some(0) => {
            let (input, raw_input_contents) = rest.kserve.raw_binary_input(&model, &version, body)?;
            let message = wire::ModelInferRequest { inputs: vec![input], raw_input_contents, ..Default::default() };
            InferRequest { message, binary: Binary { default: true, outputs: HashMap::new() }, copied: 0 }
        }
        header => read(rest, header.unwrap_or(body.len()), body).await?,
    };
    rest.budget.take(copied, &held)?;
    message.model_name = model;
    message.model_version = version;
    id.clone_from(&message.id);
    let message = rest.kserve.model_infer(message, deadline).await?;
    drop(held);
    let limit = rest.max_message_bytes;
    let length: usize = message.raw_output_contents.iter().map(Bytes::len).sum();
    let written = if length > LONG_JSON {
        rest.kserve.pipeline().cpu().run(move || response::write(&message, &binary, limit)).await?
    } else {
        response::write(&message, &binary, limit)?
    };
    Ok(written.into_response())
}

async fn read(rest: &Rest, header: usize, body: Bytes) -> Result<InferRequest, Error> {
    let limit = rest.max_message_bytes;
    if header > LONG_JSON {
        rest.kserve.pipeline().cpu().run(move || request::read(&body, header, limit)).await
    } else {
        request::read(&body, header, limit)
    }
}

/// The length of the JSON; `None` where it is the whole body.
fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Error> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|length| length.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        let value = String::from_utf8_lossy(value.as_bytes());
        Error::invalid(format!("Inference-Header-Content-Length: expected a number of bytes, got `{value}`"))
    })
}
