//! Which of a model's outputs are served, and the spec that comes of it.

use detectd_engine::{Detector, DetectorOptions, EngineError, LoadOptions, ModelSpec, Precision, Stage, TensorSpec};

use crate::probe::Found;

/// The spec, and the places of its outputs among all.
///
/// Exports often give more than boxes are made of, such as raw maps beside decoded rows. Without a choice in the
/// manifest, all outputs together are the detector's, or else the one alone that fits.
///
/// # Errors
/// [`EngineError::Load`]: an output that is not there, a detector that does not fit, or several outputs that fit.
pub fn spec(options: &LoadOptions, precision: Precision, found: Found) -> Result<(ModelSpec, Vec<usize>), EngineError> {
    let Found { inputs, outputs, batch } = found;
    let (detector, served) = match (&options.detector, &options.outputs[..]) {
        (None, []) => (None, (0..outputs.len()).collect()),
        (None, chosen) => (None, places(&outputs, chosen)?),
        (Some(wanted), []) => {
            let (detector, served) = recognise(wanted, &inputs, &outputs)?;
            (Some(detector), served)
        }
        (Some(wanted), chosen) => {
            let served = places(&outputs, chosen)?;
            (Some(Detector::resolve(wanted, &inputs, &only(&outputs, &served))?), served)
        }
    };
    let spec = ModelSpec {
        engine: "libtorch".into(),
        outputs: only(&outputs, &served),
        inputs,
        precision,
        device: options.device,
        batch,
        takes: Stage::Letterboxed,
        detector,
    };
    Ok((spec, served))
}

fn only(outputs: &[TensorSpec], places: &[usize]) -> Vec<TensorSpec> {
    places.iter().map(|&place| outputs[place].clone()).collect()
}

fn places(outputs: &[TensorSpec], chosen: &[String]) -> Result<Vec<usize>, EngineError> {
    let place = |name: &String| {
        outputs.iter().position(|output| output.name == *name).ok_or_else(|| {
            EngineError::Load(format!("the manifest asks for the output {name}; the module gives {}", list(outputs)))
        })
    };
    chosen.iter().map(place).collect()
}

fn recognise(
    wanted: &DetectorOptions,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
) -> Result<(Detector, Vec<usize>), EngineError> {
    let all: Vec<usize> = (0..outputs.len()).collect();
    let error = match Detector::resolve(wanted, inputs, outputs) {
        Ok(detector) => return Ok((detector, all)),
        Err(error) => error,
    };
    if outputs.len() == 1 {
        return Err(error);
    }
    let alone = |place: usize| {
        let detector = Detector::resolve(wanted, inputs, &outputs[place..=place]);
        detector.ok().map(|detector| (detector, vec![place]))
    };
    let mut fitting: Vec<_> = all.into_iter().filter_map(alone).collect();
    match fitting.len() {
        0 => Err(match error {
            EngineError::Load(message) => EngineError::Load(format!(
                "{message}. The module gives {}; `outputs = [\"…\"]` in the manifest chooses among them",
                list(outputs)
            )),
            other => other,
        }),
        1 => Ok(fitting.remove(0)),
        _ => {
            let names: Vec<_> =
                fitting.iter().map(|(_, places)| format!("outputs = [{:?}]", outputs[places[0]].name)).collect();
            Err(EngineError::Load(format!(
                "several outputs can be the detector's, of {}: write {} in the manifest",
                list(outputs),
                names.join(" or ")
            )))
        }
    }
}

fn list(outputs: &[TensorSpec]) -> String {
    let named: Vec<String> = outputs.iter().map(|output| format!("{}: {output}", output.name)).collect();
    named.join(", ")
}
