//! How a network's tensors become boxes: settled once, when the model is loaded.

use detectd_vision::{Family, Head, Letterbox, OutputShape, Preprocess};

use crate::{DataType, EngineError, TensorSpec};

/// What a manifest says of a detector. What it leaves open is recognised from the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DetectorOptions {
    /// The family, which decides preprocessing and helps to recognise the outputs.
    pub family: Option<Family>,
    /// The number of classes.
    pub classes: usize,
    /// Width and height of the input, for a model that leaves them open.
    pub input_size: Option<(u32, u32)>,
    /// How pictures are prepared, in place of the family's way.
    pub preprocess: Option<Preprocess>,
    /// The outputs' layout, in place of recognising it.
    pub head: Option<Head>,
}

/// How pictures become a network's input and its outputs become boxes.
#[derive(Clone, Debug, PartialEq)]
pub struct Detector {
    /// The family, where it is known.
    pub family: Option<Family>,
    /// The number of classes.
    pub classes: usize,
    /// How a picture is prepared.
    pub preprocess: Preprocess,
    /// The outputs' layout.
    pub head: Head,
    /// Which of the inputs is the picture.
    pub image_input: usize,
    /// The inputs beside the picture, with their index.
    pub auxiliary: Vec<(usize, Auxiliary)>,
}

/// An input beside the picture, as Paddle's exports have them, FP32 `[N, 2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auxiliary {
    /// Height and width of the network's input.
    ImShape,
    /// Input pixels per source pixel, vertically and horizontally.
    ScaleFactor,
}

impl Auxiliary {
    /// The two values for a picture. Where a fixed batch is filled up they are 1: a scale factor of 0 would be divided by.
    #[must_use]
    pub fn values(self, letterbox: &Letterbox) -> [f32; 2] {
        match self {
            Self::ImShape => [letterbox.input().1 as f32, letterbox.input().0 as f32],
            Self::ScaleFactor => [letterbox.scale().1 as f32, letterbox.scale().0 as f32],
        }
    }
}

impl Detector {
    /// Settles what `options` leaves open from the model's inputs and outputs.
    ///
    /// # Errors
    /// [`EngineError::Load`] that says what does not fit, or what the manifest must add.
    pub fn resolve(
        options: &DetectorOptions,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<Self, EngineError> {
        let (image_input, auxiliary) = find_inputs(inputs)?;
        let input_size = input_size(options, &inputs[image_input])?;
        let preprocess = preprocess(options, input_size)?;
        let shapes: Vec<_> =
            outputs.iter().map(|output| OutputShape { name: &output.name, dims: &output.dims }).collect();
        let head = match &options.head {
            Some(head) => head.clone(),
            None => Head::recognise(options.family, &shapes, options.classes, input_size)
                .map_err(|error| unrecognised(options, &shapes, input_size, &error))?,
        };
        head.check(&shapes, options.classes, input_size).map_err(|error| EngineError::Load(error.to_string()))?;
        Ok(Self { family: options.family, classes: options.classes, preprocess, head, image_input, auxiliary })
    }
}

/// Labels beyond this number are not looked for.
const MOST_CLASSES: usize = 2000;

/// Where the outputs fit another number of classes, that is what is wrong.
fn unrecognised(
    options: &DetectorOptions,
    shapes: &[OutputShape<'_>],
    input_size: (u32, u32),
    error: &impl std::fmt::Display,
) -> EngineError {
    let fits = |classes: &usize| Head::recognise(options.family, shapes, *classes, input_size).is_ok();
    let labels = options.classes;
    match (1..=MOST_CLASSES).find(fits) {
        Some(classes) => {
            EngineError::Load(format!("the outputs have {classes} classes, but there are {labels} labels"))
        }
        None => EngineError::Load(error.to_string()),
    }
}

fn find_inputs(inputs: &[TensorSpec]) -> Result<(usize, Vec<(usize, Auxiliary)>), EngineError> {
    let mut image = None;
    let mut auxiliary = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let pair = input.data_type == DataType::Fp32 && matches!(input.dims[..], [_, None | Some(2)]);
        let picture = input.data_type == DataType::Fp32 && matches!(input.dims[..], [_, None | Some(3), _, _]);
        match input.name.as_str() {
            "im_shape" if pair => auxiliary.push((index, Auxiliary::ImShape)),
            "scale_factor" if pair => auxiliary.push((index, Auxiliary::ScaleFactor)),
            _ if picture && image.is_none() => image = Some(index),
            name => {
                return Err(EngineError::Load(format!(
                    "input {name}: {input} is not understood; a detector takes one picture FP32 [N, 3, H, W], and \
                     `im_shape` and `scale_factor` FP32 [N, 2] beside it"
                )));
            }
        }
    }
    let image = image.ok_or_else(|| EngineError::Load("no input is a picture, FP32 [N, 3, H, W]".into()))?;
    Ok((image, auxiliary))
}

fn input_size(options: &DetectorOptions, input: &TensorSpec) -> Result<(u32, u32), EngineError> {
    let wanted = options.preprocess.as_ref().map(|preprocess| (preprocess.width, preprocess.height));
    let wanted = options.input_size.or(wanted);
    let side = |dim: Option<usize>, wanted: Option<u32>, name: &str| match (dim, wanted) {
        (Some(dim), Some(wanted)) if dim != wanted as usize => Err(EngineError::Load(format!(
            "the model's input {} has {name} {dim}, the manifest asks for {wanted}",
            input.name
        ))),
        (Some(dim), _) => u32::try_from(dim)
            .ok()
            .filter(|&side| side > 0)
            .ok_or_else(|| EngineError::Load(format!("the model's input {} has {name} {dim}", input.name))),
        (None, Some(wanted)) => Ok(wanted),
        (None, None) => Err(EngineError::Load(format!(
            "the model leaves the {name} of its input {} open: state `input_size` in the manifest",
            input.name
        ))),
    };
    let height = side(input.dims[2], wanted.map(|(_, height)| height), "height")?;
    let width = side(input.dims[3], wanted.map(|(width, _)| width), "width")?;
    Ok((width, height))
}

fn preprocess(options: &DetectorOptions, (width, height): (u32, u32)) -> Result<Preprocess, EngineError> {
    let preprocess = match (&options.preprocess, options.family) {
        (Some(preprocess), _) => Preprocess { width, height, ..preprocess.clone() },
        (None, Some(Family::Yolov5 | Family::Yolov7 | Family::Yolov8)) => Preprocess::yolov5(width, height),
        (None, Some(Family::Yolox)) => Preprocess::yolox(width, height),
        (None, Some(Family::Yolov3 | Family::Ppyolo | Family::Ppyolov2 | Family::PpyoloTiny)) => {
            Preprocess::ppyolo(width, height)
        }
        (None, None) => return Err(EngineError::Load("state `family` or `preprocess` in the manifest".into())),
    };
    preprocess.validate().map_err(|error| EngineError::Load(format!("the input: {error}")))?;
    Ok(preprocess)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, dims: &[Option<usize>]) -> TensorSpec {
        TensorSpec { name: name.into(), data_type: DataType::Fp32, dims: dims.to_vec() }
    }

    fn options() -> DetectorOptions {
        DetectorOptions { family: Some(Family::Yolov5), classes: 2, ..DetectorOptions::default() }
    }

    #[test]
    fn an_open_size_comes_from_the_manifest_or_is_asked_for() {
        let inputs = [tensor("images", &[None, Some(3), None, None])];
        let outputs = [tensor("output0", &[None, None, Some(7)])];
        let error = Detector::resolve(&options(), &inputs, &outputs).unwrap_err().to_string();
        assert!(error.contains("input_size"), "{error}");
        let stated = DetectorOptions { input_size: Some((96, 64)), ..options() };
        let detector = Detector::resolve(&stated, &inputs, &outputs).unwrap();
        assert_eq!((detector.preprocess.width, detector.preprocess.height), (96, 64));
        assert_eq!(detector.head, Head::Yolov5);
    }

    #[test]
    fn another_number_of_labels_is_named() {
        let inputs = [tensor("images", &[None, Some(3), Some(64), Some(64)])];
        let outputs = [tensor("output0", &[None, Some(252), Some(13)])];
        let error = Detector::resolve(&DetectorOptions { classes: 9, ..options() }, &inputs, &outputs).unwrap_err();
        assert!(error.to_string().contains("8 classes") && error.to_string().contains("9 labels"), "{error}");
    }

    #[test]
    fn a_size_that_contradicts_the_model_is_refused() {
        let inputs = [tensor("images", &[None, Some(3), Some(64), Some(64)])];
        let stated = DetectorOptions { input_size: Some((96, 64)), ..options() };
        let error = Detector::resolve(&stated, &inputs, &[]).unwrap_err().to_string();
        assert!(error.contains("width 64") && error.contains("96"), "{error}");
    }

    #[test]
    fn inputs_beside_the_picture_are_known_by_name() {
        let pair = [None, Some(2)];
        let inputs =
            [tensor("im_shape", &pair), tensor("image", &[None, Some(3), None, None]), tensor("scale_factor", &pair)];
        let (image, auxiliary) = find_inputs(&inputs).unwrap();
        assert_eq!(image, 1);
        assert_eq!(auxiliary, [(0, Auxiliary::ImShape), (2, Auxiliary::ScaleFactor)]);
        let error = find_inputs(&[tensor("noise", &pair)]).unwrap_err().to_string();
        assert!(error.contains("noise"), "{error}");
        assert!(find_inputs(&[]).is_err());
    }
}
