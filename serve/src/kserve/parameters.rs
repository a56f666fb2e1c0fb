//! The parameters of a request: what the detection service has as fields of its messages.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use detectd_proto::inference as wire;
use detectd_proto::inference::infer_parameter::ParameterChoice;
use detectd_vision::MatrixKernel;

use crate::batch::Priority;
use crate::error::Error;
use crate::options::{RequestedNms, RequestedOptions, SoftKernelName};

/// What the parameters of a request say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    pub options: RequestedOptions,
    pub priority: Priority,
    pub timeout: Option<Duration>,
    /// See `DetectRequest.rollout_key`.
    pub rollout_key: String,
}

/// Every parameter there is.
const KNOWN: [&str; 15] = [
    "score_threshold",
    "max_detections",
    "class_ids",
    "class_labels",
    "class_agnostic",
    "nms",
    "nms_kernel",
    "nms_sigma",
    "nms_iou_threshold",
    "nms_post_threshold",
    "nms_top_k",
    "priority",
    "timeout",
    "rollout_key",
    // It asks for what is always so: a request has one answer, marked as its final one.
    "triton_enable_empty_final_response",
];

/// Reads the parameters of a request.
///
/// # Errors
/// INVALID_ARGUMENT that names the parameter.
pub fn read(parameters: &HashMap<String, wire::InferParameter>) -> Result<Parameters, Error> {
    if let Some(unknown) = parameters.keys().filter(|name| !KNOWN.contains(&name.as_str())).min() {
        let known = KNOWN.join(", ");
        return Err(Error::invalid(format!("parameters: there is no `{unknown}`; there are {known}")));
    }
    let values = Values(parameters);
    let options = RequestedOptions {
        score_threshold: values.number("score_threshold")?,
        nms: nms(&values)?,
        max_detections: values.integer("max_detections")?,
        class_ids: values.list("class_ids", "a class number")?,
        class_labels: values.list("class_labels", "a label")?,
        class_agnostic: values.switch("class_agnostic")?,
    };
    let timeout = values.integer("timeout")?.filter(|&timeout: &u64| timeout > 0).map(Duration::from_micros);
    let rollout_key = values.text("rollout_key")?.unwrap_or_default();
    Ok(Parameters { options, priority: priority(&values)?, timeout, rollout_key })
}

fn nms(values: &Values<'_>) -> Result<Option<RequestedNms>, Error> {
    let method = values.text("nms")?;
    let own: &[&str] = match method.as_deref() {
        Some("matrix") => &["nms_kernel", "nms_sigma", "nms_post_threshold", "nms_top_k"],
        Some("greedy") => &["nms_iou_threshold"],
        Some("soft") => &["nms_kernel", "nms_sigma", "nms_iou_threshold"],
        None => &[],
        Some(other) => return Err(wrong("nms", "matrix, greedy or soft", other)),
    };
    let stray = values.0.keys().filter(|name| name.starts_with("nms_") && !own.contains(&name.as_str())).min();
    if let Some(stray) = stray {
        let method = method.as_deref().unwrap_or("none");
        return Err(Error::invalid(format!("parameters.{stray}: it belongs to another `nms` than {method}")));
    }
    let gaussian = match values.text("nms_kernel")?.as_deref() {
        None => None,
        Some("linear") => Some(false),
        Some("gaussian") => Some(true),
        Some(other) => return Err(wrong("nms_kernel", "linear or gaussian", other)),
    };
    let sigma = values.number("nms_sigma")?;
    let iou_threshold = values.number("nms_iou_threshold")?;
    Ok(match method.as_deref() {
        Some("matrix") => Some(RequestedNms::Matrix {
            kernel: gaussian.map(|gaussian| if gaussian { MatrixKernel::Gaussian } else { MatrixKernel::Linear }),
            sigma,
            post_threshold: values.number("nms_post_threshold")?,
            top_k: values.integer("nms_top_k")?,
        }),
        Some("greedy") => Some(RequestedNms::Greedy { iou_threshold }),
        Some(_) => Some(RequestedNms::Soft {
            kernel: gaussian.map(|gaussian| if gaussian { SoftKernelName::Gaussian } else { SoftKernelName::Linear }),
            sigma,
            iou_threshold,
        }),
        None => None,
    })
}

fn priority(values: &Values<'_>) -> Result<Priority, Error> {
    match values.text("priority")?.as_deref() {
        None | Some("0" | "2" | "normal") => Ok(Priority::Normal),
        Some("1" | "high") => Ok(Priority::High),
        Some("3" | "low") => Ok(Priority::Low),
        Some(other) => Err(wrong("priority", "1 or high, 2 or normal, 3 or low", other)),
    }
}

/// Parameters by name. Clients differ in the types that they give to numbers, so every type that reads as the one that
/// is wanted is taken.
struct Values<'a>(&'a HashMap<String, wire::InferParameter>);

impl Values<'_> {
    /// The parameter as it would be written.
    fn text(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(parameter) = self.0.get(name) else { return Ok(None) };
        match &parameter.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Ok(Some(value.to_string())),
            Some(ParameterChoice::Int64Param(value)) => Ok(Some(value.to_string())),
            Some(ParameterChoice::Uint64Param(value)) => Ok(Some(value.to_string())),
            Some(ParameterChoice::DoubleParam(value)) => Ok(Some(value.to_string())),
            Some(ParameterChoice::StringParam(value)) => Ok(Some(value.clone())),
            None => Err(Error::invalid(format!("parameters.{name}: it has no value"))),
        }
    }

    fn parse<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| wrong(name, expected, text))
    }

    fn number(&self, name: &str) -> Result<Option<f32>, Error> {
        self.parse(name, "a number")
    }

    fn integer<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        self.parse(name, "a whole number, 0 or above")
    }

    fn switch(&self, name: &str) -> Result<Option<bool>, Error> {
        self.parse(name, "true or false")
    }

    /// A list with commas between its items; none where the parameter is absent or empty.
    fn list<T: FromStr>(&self, name: &str, expected: &str) -> Result<Vec<T>, Error> {
        let Some(text) = self.text(name)? else { return Ok(Vec::new()) };
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| item.parse().map_err(|_| wrong(name, expected, item))).collect()
    }
}

fn wrong(name: &str, expected: &str, came: impl Display) -> Error {
    Error::invalid(format!("parameters.{name}: expected {expected}, got `{came}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parameters: &[(&str, ParameterChoice)]) -> Result<Parameters, Error> {
        let parameter = |choice: &ParameterChoice| wire::InferParameter { parameter_choice: Some(choice.clone()) };
        read(&parameters.iter().map(|(name, choice)| ((*name).to_owned(), parameter(choice))).collect())
    }

    fn text(value: &str) -> ParameterChoice {
        ParameterChoice::StringParam(value.into())
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(of(&[]).unwrap(), Parameters::default());
    }

    #[test]
    fn every_type_that_reads_as_the_wanted_one_is_taken() {
        for choice in [text("7"), ParameterChoice::Int64Param(7), ParameterChoice::Uint64Param(7)] {
            assert_eq!(of(&[("max_detections", choice)]).unwrap().options.max_detections, Some(7));
        }
        for choice in [text("0.5"), ParameterChoice::DoubleParam(0.5)] {
            assert_eq!(of(&[("score_threshold", choice)]).unwrap().options.score_threshold, Some(0.5));
        }
        for choice in [text("1"), text("high"), ParameterChoice::Uint64Param(1)] {
            assert_eq!(of(&[("priority", choice)]).unwrap().priority, Priority::High);
        }
        for choice in [text("true"), ParameterChoice::BoolParam(true)] {
            assert_eq!(of(&[("class_agnostic", choice)]).unwrap().options.class_agnostic, Some(true));
        }
    }

    #[test]
    fn classes_suppression_and_timeout_arrive() {
        let read = of(&[
            ("class_ids", text("3, 1")),
            ("class_labels", text("bolt,nut")),
            ("nms", text("soft")),
            ("nms_kernel", text("linear")),
            ("nms_iou_threshold", ParameterChoice::DoubleParam(0.25)),
            ("timeout", ParameterChoice::Int64Param(1500)),
            ("rollout_key", text("camera 7")),
        ])
        .unwrap();
        assert_eq!((read.options.class_ids, read.options.class_labels.len()), (vec![3, 1], 2));
        assert_eq!((read.timeout, read.rollout_key.as_str()), (Some(Duration::from_micros(1500)), "camera 7"));
        let expected =
            RequestedNms::Soft { kernel: Some(SoftKernelName::Linear), sigma: None, iou_threshold: Some(0.25) };
        assert_eq!(read.options.nms, Some(expected));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let cases = [
            (vec![("score_treshold", text("1"))], "there is no `score_treshold`"),
            (vec![("sequence_id", text("1"))], "there is no `sequence_id`"),
            (vec![("score_threshold", text("high"))], "parameters.score_threshold: expected a number, got `high`"),
            (vec![("score_threshold", ParameterChoice::BoolParam(true))], "got `true`"),
            (vec![("max_detections", ParameterChoice::Int64Param(-1))], "got `-1`"),
            (vec![("class_ids", text("1,x"))], "got `x`"),
            (vec![("priority", text("9"))], "parameters.priority"),
            (vec![("nms", text("hard"))], "matrix, greedy or soft, got `hard`"),
            (vec![("nms_sigma", text("1"))], "parameters.nms_sigma: it belongs to another `nms` than none"),
            (vec![("nms", text("greedy")), ("nms_top_k", text("1"))], "another `nms` than greedy"),
            (vec![("nms", text("soft")), ("nms_kernel", text("cubic"))], "linear or gaussian, got `cubic`"),
        ];
        for (parameters, expected) in cases {
            let error = of(&parameters).unwrap_err();
            assert!(error.message.contains(expected), "{}", error.message);
        }
        let empty = wire::InferParameter { parameter_choice: None };
        let error = read(&HashMap::from([("nms".to_owned(), empty)])).unwrap_err();
        assert!(error.message.contains("parameters.nms: it has no value"), "{}", error.message);
    }
}
