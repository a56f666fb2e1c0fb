//! Every endpoint but inference: the request's path and body become the protocol's message, the answer becomes JSON.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use detectd_proto::inference as wire;
use detectd_proto::inference::log_settings_request::SettingValue as LogValue;
use detectd_proto::inference::log_settings_request::setting_value::ParameterChoice as LogChoice;
use detectd_proto::inference::log_settings_response::setting_value::ParameterChoice as LoggedChoice;
use detectd_proto::inference::model_repository_parameter::ParameterChoice as RepositoryChoice;
use detectd_proto::inference::trace_setting_request::SettingValue as TraceValue;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::body::Limit;
use super::bounded::{Parameters, Scalar};
use super::json;
use super::{LONG_JSON, Refusal, Rest};
use crate::budget::Held;
use crate::error::Error;
use crate::rpc::status::to_response;

type Answer = Result<Response, Refusal>;

/// What a path names.
#[derive(Deserialize, Default)]
pub struct Named {
    /// Empty: all.
    #[serde(default)]
    pub model: String,
    /// Empty: the one that answers where none is named.
    #[serde(default)]
    pub version: String,
}

#[derive(Deserialize)]
pub struct Region {
    #[serde(default)]
    name: String,
}

/// What a path names, or a refusal in the form of all others.
pub struct In<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for In<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(named) = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::invalid(format!("{}: {}", parts.uri.path(), error.body_text())))?;
        Ok(Self(named))
    }
}

/// A body as `parse` reads it, and what it holds of the budget.
async fn read<T: Send + 'static>(
    rest: &Rest,
    request: Request,
    limit: Limit,
    parse: fn(&[u8]) -> Result<T, Error>,
) -> Result<(T, Held), Error> {
    let (body, held) = rest.read(request, rest.deadline(), limit).await?;
    let parsed = if body.len() > LONG_JSON {
        rest.kserve.pipeline().cpu().run(move || parse(&body)).await?
    } else {
        parse(&body)?
    };
    Ok((parsed, held))
}

fn answer(value: impl serde::Serialize) -> Answer {
    Ok(Json(value).into_response())
}

/// Clients go by the status alone.
pub async fn server_live(State(rest): State<Rest>) -> Answer {
    answer(json!({ "live": rest.kserve.server_live().live }))
}

pub async fn server_ready(State(rest): State<Rest>) -> Response {
    let ready = rest.kserve.server_ready().ready;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready }))).into_response()
}

/// A model that does not serve has a status that says so, beside the reason.
pub async fn model_ready(State(rest): State<Rest>, In(Named { model, version }): In<Named>) -> Answer {
    let request = wire::ModelReadyRequest { name: model, version };
    if rest.kserve.model_ready(&request)?.ready {
        return answer(json!({ "name": request.name, "ready": true }));
    }
    let wire::ModelReadyRequest { name, version } = request;
    let reason = rest.kserve.model_metadata(&wire::ModelMetadataRequest { name, version });
    let error = reason.err().unwrap_or_else(|| Error::unavailable("the server is shutting down"));
    Ok(to_response(&error, ""))
}

pub async fn server_metadata(State(rest): State<Rest>) -> Answer {
    answer(rest.messages.json("ServerMetadataResponse", &rest.kserve.server_metadata())?)
}

pub async fn model_metadata(State(rest): State<Rest>, In(Named { model, version }): In<Named>) -> Answer {
    let metadata = rest.kserve.model_metadata(&wire::ModelMetadataRequest { name: model, version })?;
    answer(rest.messages.json("ModelMetadataResponse", &metadata)?)
}

pub async fn model_config(State(rest): State<Rest>, In(Named { model, version }): In<Named>) -> Answer {
    let config = rest.kserve.model_config(&wire::ModelConfigRequest { name: model, version })?;
    answer(rest.messages.json("ModelConfig", &config.config.unwrap_or_default())?)
}

pub async fn statistics(State(rest): State<Rest>, In(Named { model, version }): In<Named>) -> Answer {
    let statistics = rest.kserve.model_statistics(&wire::ModelStatisticsRequest { name: model, version })?;
    answer(rest.messages.json("ModelStatisticsResponse", &statistics)?)
}

#[derive(Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

pub async fn repository_index(State(rest): State<Rest>, request: Request) -> Answer {
    let (IndexRequest { ready }, _held) = read(&rest, request, rest.control_limit(), json::read).await?;
    let request = wire::RepositoryIndexRequest { ready, ..Default::default() };
    let index = rest.messages.json("RepositoryIndexResponse", &rest.kserve.repository_index(&request).await?)?;
    answer(&index["models"])
}

#[derive(Deserialize)]
struct RepositoryRequest {
    parameters: Option<Parameters>,
}

pub async fn load(State(rest): State<Rest>, In(named): In<Named>, request: Request) -> Answer {
    // Files hold their part of the budget until the model is loaded.
    let (parameters, _held) = read(&rest, request, rest.message_limit(), repository_parameters).await?;
    let model_name = named.model;
    let request = wire::RepositoryModelLoadRequest { model_name, parameters, ..Default::default() };
    rest.kserve.repository_model_load(request).await?;
    answer(json!({}))
}

pub async fn unload(State(rest): State<Rest>, In(named): In<Named>, request: Request) -> Answer {
    let (parameters, _held) = read(&rest, request, rest.control_limit(), repository_parameters).await?;
    let model_name = named.model;
    let request = wire::RepositoryModelUnloadRequest { model_name, parameters, ..Default::default() };
    rest.kserve.repository_model_unload(request).await?;
    answer(json!({}))
}

/// Files come in base64.
fn repository_parameters(body: &[u8]) -> Result<HashMap<String, wire::ModelRepositoryParameter>, Error> {
    let RepositoryRequest { parameters } = json::read(body)?;
    let parameter = |(name, value): (String, Scalar)| {
        let choice = match value {
            Scalar::Text(text) if name.starts_with("file:") => match STANDARD.decode(text) {
                Ok(content) => RepositoryChoice::BytesParam(content.into()),
                Err(error) => {
                    return Err(Error::invalid(format!(
                        "parameters.{name}: expected base64, got what is none: {error}"
                    )));
                }
            },
            Scalar::Text(text) => RepositoryChoice::StringParam(text),
            Scalar::Bool(value) => RepositoryChoice::BoolParam(value),
            Scalar::Int(value) => RepositoryChoice::Int64Param(value),
            other => {
                let message =
                    format!("parameters.{name}: expected a string, a whole number, true or false, got {other}");
                return Err(Error::invalid(message));
            }
        };
        Ok((name, wire::ModelRepositoryParameter { parameter_choice: Some(choice) }))
    };
    parameters.unwrap_or_default().0.into_iter().map(parameter).collect()
}

pub async fn shared_memory_status(State(rest): State<Rest>, In(region): In<Region>) -> Answer {
    let request = wire::SystemSharedMemoryStatusRequest { name: region.name };
    let status = rest.kserve.system_shared_memory_status(&request)?;
    let status = rest.messages.json("SystemSharedMemoryStatusResponse", &status)?;
    answer(regions(&status))
}

#[derive(Deserialize)]
struct RegisterRequest {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

pub async fn register_shared_memory(State(rest): State<Rest>, In(region): In<Region>, request: Request) -> Answer {
    let (registered, _held) = read(&rest, request, rest.control_limit(), json::read).await?;
    let RegisterRequest { key, offset, byte_size } = registered;
    let name = region.name;
    let request = wire::SystemSharedMemoryRegisterRequest { name, key, offset, byte_size };
    rest.kserve.system_shared_memory_register(&request)?;
    answer(json!({}))
}

pub async fn unregister_shared_memory(State(rest): State<Rest>, In(region): In<Region>) -> Answer {
    let request = wire::SystemSharedMemoryUnregisterRequest { name: region.name };
    rest.kserve.system_shared_memory_unregister(&request)?;
    answer(json!({}))
}

pub async fn cuda_status(State(rest): State<Rest>, In(region): In<Region>) -> Answer {
    let request = wire::CudaSharedMemoryStatusRequest { name: region.name };
    let status = rest.kserve.cuda_shared_memory_status(&request)?;
    answer(regions(&rest.messages.json("CudaSharedMemoryStatusResponse", &status)?))
}

pub async fn register_cuda(State(rest): State<Rest>) -> Answer {
    rest.kserve.cuda_shared_memory_register()?;
    answer(json!({}))
}

pub async fn unregister_cuda(State(rest): State<Rest>) -> Answer {
    rest.kserve.cuda_shared_memory_unregister()?;
    answer(json!({}))
}

/// HTTP lists what gRPC has by name.
fn regions(status: &Value) -> Vec<&Value> {
    status["regions"].as_object().into_iter().flat_map(|regions| regions.values()).collect()
}

pub async fn trace_setting(State(rest): State<Rest>, In(named): In<Named>) -> Answer {
    trace(&rest, named.model, HashMap::new())
}

pub async fn change_trace_setting(State(rest): State<Rest>, In(named): In<Named>, request: Request) -> Answer {
    let (settings, _held): (HashMap<String, Value>, _) = read(&rest, request, rest.control_limit(), json::read).await?;
    let setting = |(name, value): (String, Value)| {
        let value = match value {
            Value::Null => Vec::new(),
            Value::Array(values) => values.iter().map(text).collect(),
            other => vec![text(&other)],
        };
        (name, TraceValue { value })
    };
    trace(&rest, named.model, settings.into_iter().map(setting).collect())
}

fn trace(rest: &Rest, model_name: String, settings: HashMap<String, TraceValue>) -> Answer {
    let response = rest.kserve.trace_setting(&wire::TraceSettingRequest { settings, model_name })?;
    let settings = response.settings.into_iter().map(|(name, value)| {
        // The only one that is a list also where it has one value.
        let is_list = name == "trace_level";
        let value = if is_list { json!(value.value) } else { json!(value.value.join(",")) };
        (name, value)
    });
    answer(settings.collect::<BTreeMap<_, _>>())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub async fn log_settings(State(rest): State<Rest>) -> Answer {
    log(&rest, HashMap::new())
}

pub async fn change_log_settings(State(rest): State<Rest>, request: Request) -> Answer {
    let (settings, _held): (HashMap<String, Value>, _) = read(&rest, request, rest.control_limit(), json::read).await?;
    let setting = |(name, value): (String, Value)| {
        let choice = match &value {
            Value::Null => None,
            Value::Bool(value) => Some(LogChoice::BoolParam(*value)),
            Value::String(value) => Some(LogChoice::StringParam(value.clone())),
            other => match other.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) => Some(LogChoice::Uint32Param(number)),
                None => {
                    let expected = "expected true or false, a whole number or a string";
                    return Err(Error::invalid(format!("{name}: {expected}, got {other}")));
                }
            },
        };
        Ok((name, LogValue { parameter_choice: choice }))
    };
    log(&rest, settings.into_iter().map(setting).collect::<Result<_, _>>()?)
}

fn log(rest: &Rest, settings: HashMap<String, LogValue>) -> Answer {
    let response = rest.kserve.log_settings(wire::LogSettingsRequest { settings })?;
    let settings = response.settings.into_iter().map(|(name, value)| {
        let value = match value.parameter_choice {
            Some(LoggedChoice::BoolParam(value)) => value.into(),
            Some(LoggedChoice::Uint32Param(value)) => value.into(),
            Some(LoggedChoice::StringParam(value)) => value.into(),
            None => Value::Null,
        };
        (name, value)
    });
    answer(settings.collect::<BTreeMap<_, _>>())
}
