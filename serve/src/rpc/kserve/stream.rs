//! One request of ModelStreamInfer.

use std::collections::HashMap;
use std::time::Instant;

use detectd_proto::inference as wire;
use detectd_proto::inference::infer_parameter::ParameterChoice;

use crate::client::code_name;
use crate::kserve::Kserve;
use crate::rpc::deadline::StreamDeadline;
use crate::rpc::status::{code, to_status};

/// Answers a request; an error is a message beside the request's id.
pub async fn infer(
    kserve: Kserve,
    request: wire::ModelInferRequest,
    deadline: StreamDeadline,
) -> wire::ModelStreamInferResponse {
    let deadline = deadline.request(Instant::now(), None);
    let id = request.id.clone();
    // Every request has one answer, which clients of models with several wait for.
    let last = wire::InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    let last = HashMap::from([("triton_final_response".to_owned(), last)]);
    match kserve.model_infer(request, deadline).await {
        Ok(mut response) => {
            response.parameters.extend(last);
            wire::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
        }
        Err(error) => {
            kserve.metrics().refused(&error);
            let status = to_status(&error, &id);
            let code = code_name(code(error.code));
            let error_message = format!("[request id: {id}] {code}: {}", status.message());
            let response = wire::ModelInferResponse { id, parameters: last, ..wire::ModelInferResponse::default() };
            wire::ModelStreamInferResponse { error_message, infer_response: Some(response) }
        }
    }
}
