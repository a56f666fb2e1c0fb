//! RepositoryModelLoad and RepositoryModelUnload: what they ask for is read and checked here.

use std::collections::HashMap;
use std::sync::Arc;

use detectd_proto::inference as wire;
use detectd_proto::inference::model_repository_parameter::ParameterChoice;

use super::repository::check_name;
use crate::error::Error;
use crate::repository::{LoadOverrides, Repository};

const FILE: &str = "file:";

/// Loads a model, or loads it again.
///
/// # Errors
/// A parameter that is none; what [`Repository::load`] answers.
pub async fn load(repository: &Arc<Repository>, request: wire::RepositoryModelLoadRequest) -> Result<(), Error> {
    let model = model(&request.repository_name, request.model_name)?;
    repository.load(&model, overrides(request.parameters)?).await
}

/// Unloads a model.
///
/// # Errors
/// A parameter that is none; what [`Repository::unload`] answers.
pub async fn unload(repository: &Arc<Repository>, request: wire::RepositoryModelUnloadRequest) -> Result<(), Error> {
    let model = model(&request.repository_name, request.model_name)?;
    for (name, parameter) in request.parameters {
        match (name.as_str(), parameter.parameter_choice) {
            // No model depends on another.
            ("unload_dependents", Some(ParameterChoice::BoolParam(_))) => {}
            ("unload_dependents", _) => return Err(wrong(&name, "true or false")),
            _ => return Err(Error::invalid(format!("parameters: there is no `{name}`; there is unload_dependents"))),
        }
    }
    repository.unload(&model).await
}

fn model(repository: &str, name: String) -> Result<String, Error> {
    check_name(repository)?;
    if name.is_empty() { Err(Error::invalid("model_name: expected the name of a model, got none")) } else { Ok(name) }
}

fn overrides(parameters: HashMap<String, wire::ModelRepositoryParameter>) -> Result<LoadOverrides, Error> {
    let mut overrides = LoadOverrides::default();
    for (name, parameter) in parameters {
        match (name.as_str(), name.strip_prefix(FILE), parameter.parameter_choice) {
            ("config", _, Some(ParameterChoice::StringParam(config))) => overrides.config = Some(config),
            ("config", ..) => return Err(wrong(&name, "a string, JSON")),
            (_, Some(path), Some(ParameterChoice::BytesParam(content))) => {
                check_path(path)?;
                overrides.files.push((path.to_owned(), content));
            }
            (_, Some(_), _) => return Err(wrong(&name, "bytes")),
            _ => {
                let known = "config and file:<version>/<name>";
                return Err(Error::invalid(format!("parameters: there is no `{name}`; there are {known}")));
            }
        }
    }
    overrides.files.sort();
    Ok(overrides)
}

/// A version's number and one name: no path that leads out of the version's folder.
fn check_path(path: &str) -> Result<(), Error> {
    let parts = path.split_once('/').filter(|(version, name)| {
        let number = version.parse().is_ok_and(|version: u64| version > 0);
        let plain = !name.is_empty() && !name.contains(['/', '\\', '\0']) && !name.starts_with('.');
        number && plain
    });
    parts.map(|_| ()).ok_or_else(|| {
        Error::invalid(format!("parameters.{FILE}{path}: expected {FILE}<version>/<name>, as in {FILE}1/model.onnx"))
    })
}

fn wrong(name: &str, expected: &str) -> Error {
    Error::invalid(format!("parameters.{name}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn of(parameters: &[(&str, ParameterChoice)]) -> Result<LoadOverrides, String> {
        let parameters = parameters.iter().map(|(name, choice)| {
            ((*name).to_owned(), wire::ModelRepositoryParameter { parameter_choice: Some(choice.clone()) })
        });
        overrides(parameters.collect()).map_err(|error| error.message)
    }

    #[test]
    fn a_configuration_and_files_are_read() {
        let bytes = |content: &'static str| ParameterChoice::BytesParam(Bytes::from(content));
        let read = of(&[
            ("config", ParameterChoice::StringParam("{}".into())),
            ("file:2/labels.txt", bytes("bolt")),
            ("file:1/model.onnx", bytes("graph")),
        ]);
        let files = vec![("1/model.onnx".to_owned(), "graph".into()), ("2/labels.txt".to_owned(), "bolt".into())];
        assert_eq!(read, Ok(LoadOverrides { config: Some("{}".into()), files }));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let (text, bytes) = (ParameterChoice::StringParam("x".into()), ParameterChoice::BytesParam("x".into()));
        let cases = [
            (("settings", text.clone()), "there is no `settings`"),
            (("config", bytes.clone()), "parameters.config: expected a string"),
            (("file:1/model.onnx", text), "parameters.file:1/model.onnx: expected bytes"),
            (("file:model.onnx", bytes.clone()), "file:<version>/<name>"),
            (("file:0/model.onnx", bytes.clone()), "file:<version>/<name>"),
            (("file:1/../../etc/passwd", bytes.clone()), "file:<version>/<name>"),
            (("file:1/..", bytes.clone()), "file:<version>/<name>"),
            (("file:../model.toml", bytes.clone()), "file:<version>/<name>"),
            (("file:1/", bytes), "file:<version>/<name>"),
        ];
        for (parameter, expected) in cases {
            let message = of(&[parameter]).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
