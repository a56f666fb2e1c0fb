//! One inference request, from its message to its answer. How the message came is not its concern.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use detectd_engine::Detector;
use detectd_proto::inference as wire;
use detectd_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use detectd_proto::inference::model_infer_response::InferOutputTensor;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::detection;
use super::parameters::{self, Parameters};
use super::shared_memory::{SharedMemory, Span};
use super::tensor_model;
use super::tensors::{self, Contents, Datatype, InputTensor};
use crate::error::Error;
use crate::pipeline::{Answer, DetectJob, Pipeline, TensorJob};
use crate::repository::{ModelVersion, Pick};
use crate::rpc::RpcLimits;
use crate::rpc::convert::MAX_REQUEST_ID;

/// Answers inference requests.
#[derive(Clone)]
pub struct Inference {
    pipeline: Arc<Pipeline>,
    shared_memory: Arc<SharedMemory>,
    limits: RpcLimits,
}

/// A tensor of an answer.
pub struct OutputTensor {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<usize>,
    pub data: Bytes,
}

/// An output that the request asks for, and where it goes if not into the answer.
struct Wanted {
    name: String,
    parameters: HashMap<String, wire::InferParameter>,
    span: Option<Span>,
}

impl Inference {
    /// Over the models of `pipeline`.
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, shared_memory: Arc<SharedMemory>, limits: RpcLimits) -> Self {
        Self { pipeline, shared_memory, limits }
    }

    /// What requests are run through.
    #[must_use]
    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// The most boxes of one picture.
    #[must_use]
    pub fn max_detections(&self) -> usize {
        self.pipeline.limits().max_detections
    }

    /// The registered regions.
    #[must_use]
    pub fn shared_memory(&self) -> &Arc<SharedMemory> {
        &self.shared_memory
    }

    /// Answers a request. After `deadline`, or after the request's own timeout, its answer is of no use.
    ///
    /// # Errors
    /// See [`crate::error::ErrorCode`]; the message names what was wrong.
    pub async fn infer(
        &self,
        request: wire::ModelInferRequest,
        deadline: Option<Instant>,
    ) -> Result<wire::ModelInferResponse, Error> {
        if request.id.len() > MAX_REQUEST_ID {
            let length = request.id.len();
            return Err(Error::invalid(format!("id: expected at most {MAX_REQUEST_ID} bytes, got {length}")));
        }
        let number = version_number(&request.model_version)?;
        let parameters = parameters::read(&request.parameters)?;
        // One version answers all images, whatever is swapped meanwhile.
        let pick = self.pipeline.repository().pick(&request.model_name, number, &parameters.rollout_key)?;
        let own = parameters.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let deadline = [own, deadline].into_iter().flatten().min();
        let picked = Arc::clone(&pick.version);
        let spec = picked.spec();
        let known: Vec<&str> = match spec.detector {
            Some(_) => detection::OUTPUTS.to_vec(),
            None => spec.outputs.iter().map(|output| output.name.as_str()).collect(),
        };
        let wanted = self.wanted(request.outputs, &known)?;
        let inputs = self.inputs(request.inputs, request.raw_input_contents).await?;
        let (version, outputs) = match &spec.detector {
            Some(detector) => self.detect(pick, detector, inputs, parameters, deadline).await?,
            None => {
                let inputs = tensor_model::inputs(inputs, spec)?;
                let (model, priority) = (String::new(), parameters.priority);
                self.pipeline.admit()?;
                let answer =
                    self.pipeline.infer_on(pick, TensorJob { model, version: 0, inputs, priority, deadline }).await?;
                let outputs = tensor_model::outputs(&answer.outputs, answer.version.spec());
                (answer.version, outputs)
            }
        };
        let (outputs, raw_output_contents) = deliver(outputs, wanted).await?;
        Ok(wire::ModelInferResponse {
            model_name: version.name().to_owned(),
            model_version: version.version().to_string(),
            id: request.id,
            parameters: HashMap::new(),
            outputs,
            raw_output_contents,
        })
    }

    /// The version that has answered, and its detections.
    async fn detect(
        &self,
        pick: Pick,
        detector: &Detector,
        inputs: Vec<InputTensor>,
        parameters: Parameters,
        deadline: Option<Instant>,
    ) -> Result<(Arc<ModelVersion>, Vec<OutputTensor>), Error> {
        let images = detection::images(inputs, detector, self.limits.max_images)?;
        let options = Arc::new(parameters.options);
        let jobs = images.into_iter().map(|image| DetectJob {
            // The version is picked already.
            model: String::new(),
            version: 0,
            rollout_key: String::new(),
            image,
            options: Arc::clone(&options),
            priority: parameters.priority,
            deadline,
        });
        let jobs: Vec<_> = jobs.collect();
        self.pipeline.admit()?;
        let mut answers = self.run(&pick, jobs.clone()).await?;
        // What the version on trial has failed, the one before has answered; then that one answers everything.
        let of_another = answers.iter().find(|answer| !Arc::ptr_eq(&answer.version, &pick.version));
        let version = Arc::clone(of_another.map_or(&pick.version, |answer| &answer.version));
        if answers.iter().any(|answer| !Arc::ptr_eq(&answer.version, &version)) {
            let pick = Pick { version: Arc::clone(&version), trial: None };
            answers = self.run(&pick, jobs).await?;
        }
        let places = options.max_detections.map_or(version.defaults().max_detections, |max| max as usize);
        let outputs = detection::tensors(&answers, places.min(self.max_detections()));
        Ok((version, outputs))
    }

    /// Runs each image on its own, so that they are gathered with those of other requests.
    async fn run(&self, pick: &Pick, jobs: Vec<DetectJob>) -> Result<Vec<Answer>, Error> {
        let count = jobs.len();
        let answers = stream::iter(jobs.into_iter().enumerate().map(|(index, job)| async move {
            let answer = self.pipeline.detect_on(pick.clone(), job).await;
            answer.map_err(|error| if count > 1 { error.context(format_args!("image {index}")) } else { error })
        }));
        answers.buffered(pick.version.at_once()).try_collect().await
    }

    fn wanted(&self, requested: Vec<InferRequestedOutputTensor>, known: &[&str]) -> Result<Vec<Wanted>, Error> {
        if requested.is_empty() {
            let all =
                known.iter().map(|name| Wanted { name: (*name).to_owned(), parameters: HashMap::new(), span: None });
            return Ok(all.collect());
        }
        let mut seen = HashSet::new();
        let wanted = requested.into_iter().map(|InferRequestedOutputTensor { name, parameters }| {
            if !known.contains(&name.as_str()) {
                let known = known.join(", ");
                return Err(Error::invalid(format!("there is no output `{name}`; the model has {known}")));
            }
            if !seen.insert(name.clone()) {
                return Err(Error::invalid(format!("output `{name}` is asked for twice")));
            }
            let span = self.shared_memory.span(&parameters);
            let span = span.map_err(|error| error.context(format_args!("output `{name}`")))?;
            Ok(Wanted { name, parameters, span })
        });
        wanted.collect()
    }

    /// Brings every input's contents together with what it says of itself.
    async fn inputs(&self, inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<InputTensor>, Error> {
        let typed = inputs.iter().find(|input| input.contents.is_some());
        if let (Some(typed), false) = (typed, raw.is_empty()) {
            let name = &typed.name;
            return Err(Error::invalid(format!("input `{name}` has `contents` beside raw_input_contents: use one")));
        }
        let mut seen = HashSet::new();
        let mut spans = Vec::with_capacity(inputs.len());
        for input in &inputs {
            if !seen.insert(input.name.as_str()) {
                return Err(Error::invalid(format!("input `{}` is there twice", input.name)));
            }
            let span = self.shared_memory.span(&input.parameters);
            spans.push(span.map_err(|error| error.context(format_args!("input `{}`", input.name)))?);
        }
        self.check_spans(&spans)?;
        let expected = spans.iter().filter(|span| span.is_none()).count();
        if !raw.is_empty() && raw.len() != expected {
            let got = raw.len();
            return Err(Error::invalid(format!(
                "raw_input_contents: expected {expected}, one for each input that is not in shared memory, got {got}"
            )));
        }
        let mut raw = raw.into_iter();
        let mut tensors = Vec::with_capacity(inputs.len());
        for (input, span) in inputs.into_iter().zip(spans) {
            let name = input.name;
            let contents = match (span, input.contents) {
                (None, Some(typed)) => Contents::Typed(typed),
                (None, None) => Contents::Raw(raw.next().ok_or_else(|| {
                    Error::invalid(format!(
                        "input `{name}` has no contents, neither raw nor typed nor in shared memory"
                    ))
                })?),
                (Some(_), Some(_)) => {
                    return Err(Error::invalid(format!(
                        "input `{name}` has contents and lies in shared memory: use one"
                    )));
                }
                (Some(span), None) => {
                    let read = blocking(move || span.read()).await?;
                    Contents::Raw(read.map_err(|error| error.context(format_args!("input `{name}`")))?)
                }
            };
            tensors.push(tensors::input(name, &input.datatype, &input.shape, contents)?);
        }
        Ok(tensors)
    }

    /// What comes by shared memory may be no larger than what comes by message.
    fn check_spans(&self, spans: &[Option<Span>]) -> Result<(), Error> {
        let limit = self.limits.max_message_bytes as u64;
        let total = spans.iter().flatten().fold(0u64, |total, span| total.saturating_add(span.byte_size()));
        if total > limit {
            return Err(Error::invalid(format!(
                "inputs in shared memory: expected at most {limit} bytes, this server's limit, got {total}"
            )));
        }
        Ok(())
    }
}

/// The number of a version; 0, which stands for the newest, for an empty name.
///
/// # Errors
/// INVALID_ARGUMENT for anything else that is no number above 0.
pub fn version_number(version: &str) -> Result<u64, Error> {
    if version.is_empty() {
        return Ok(0);
    }
    let number = version.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| Error::invalid(format!("version: expected a number above 0 or nothing, got `{version}`")))
}

/// Puts the wanted outputs into the answer, or into shared memory.
async fn deliver(
    outputs: Vec<OutputTensor>,
    wanted: Vec<Wanted>,
) -> Result<(Vec<InferOutputTensor>, Vec<Bytes>), Error> {
    let mut tensors = Vec::with_capacity(wanted.len());
    let mut contents = Vec::with_capacity(wanted.len());
    for Wanted { name, mut parameters, span } in wanted {
        let Some(output) = outputs.iter().find(|output| output.name == name) else {
            return Err(Error::internal(format!("output `{name}` was not computed")));
        };
        let mut raw = output.data.clone();
        if let Some(span) = span {
            // An entry each, so that entries and outputs stay in step.
            let data = std::mem::take(&mut raw);
            let length = data.len() as i64;
            let written = blocking(move || span.write(&data)).await?;
            written.map_err(|error| error.context(format_args!("output `{name}`")))?;
            let choice = wire::infer_parameter::ParameterChoice::Int64Param(length);
            let length = wire::InferParameter { parameter_choice: Some(choice) };
            parameters.insert("shared_memory_byte_size".into(), length);
        }
        contents.push(raw);
        tensors.push(InferOutputTensor {
            name,
            datatype: output.datatype.name().to_owned(),
            shape: output.shape.iter().map(|&side| i64::try_from(side).unwrap_or(i64::MAX)).collect(),
            parameters,
            contents: None,
        });
    }
    Ok((tensors, contents))
}

/// Copies memory away from the async runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal(format!("shared memory: {error}")))
}
