//! A detection model's tensors: which inputs are images, and detections as outputs.

use bytes::{BufMut as _, BytesMut};
use detectd_engine::Detector;
use detectd_vision::RawLayout;

use super::infer::OutputTensor;
use super::tensors::{Datatype, InputData, InputTensor};
use crate::error::Error;
use crate::pipeline::{Answer, ImageSource};

/// The name of the input that takes picture files.
pub const IMAGE: &str = "image";
/// The name of the input that takes pixels.
pub const IMAGES: &str = "images";
/// The names of the outputs.
pub const OUTPUTS: [&str; 4] = ["num_detections", "boxes", "scores", "classes"];

/// A class where there is no detection.
const NO_CLASS: i32 = -1;

/// The images in the inputs.
///
/// # Errors
/// INVALID_ARGUMENT when there is not exactly one input, or it is not one that holds images.
pub fn images(inputs: Vec<InputTensor>, detector: &Detector, max_images: usize) -> Result<Vec<ImageSource>, Error> {
    let count = inputs.len();
    let mut inputs = inputs.into_iter();
    let (Some(input), None) = (inputs.next(), inputs.next()) else {
        return Err(Error::invalid(format!("inputs: expected one, `{IMAGE}` or `{IMAGES}`, got {count}")));
    };
    let InputTensor { name, datatype, shape, data } = input;
    let of = shape.first().copied().unwrap_or(0);
    let wrong = |expected: &str| {
        let datatype = datatype.name();
        Error::invalid(format!("input `{name}`: expected {expected}, got {datatype} {shape:?}"))
    };
    let bounded = || {
        if (1..=max_images).contains(&of) {
            return Ok(());
        }
        let message = format!("input `{name}`: expected 1 to {max_images} images, this server's limit, got {of}");
        Err(Error::invalid(message))
    };
    match (name.as_str(), datatype, &shape[..], data) {
        (IMAGE, _, [_] | [_, 1], InputData::Strings(files)) => {
            bounded()?;
            Ok(files.into_iter().map(ImageSource::Encoded).collect())
        }
        (IMAGE, ..) => Err(wrong("BYTES [N], picture files")),
        (IMAGES, Datatype::Uint8, &[_, height, width, 3], InputData::Fixed(pixels)) => {
            bounded()?;
            let side = |side: usize| u32::try_from(side).map_err(|_| wrong("sides below 2^32"));
            let (height, width) = (side(height)?, side(width)?);
            let length = pixels.len() / of;
            let image = |index: usize| ImageSource::Raw {
                data: pixels.slice(index * length..(index + 1) * length),
                width,
                height,
                layout: RawLayout::Rgb8Hwc,
                stride: None,
            };
            Ok((0..of).map(image).collect())
        }
        (IMAGES, Datatype::Fp32, &[_, 3, height, width], InputData::Fixed(values)) => {
            bounded()?;
            let (expected_width, expected_height) = (detector.preprocess.width, detector.preprocess.height);
            if (width, height) != (expected_width as usize, expected_height as usize) {
                return Err(wrong(&format!(
                    "the network's own input, FP32 [N, 3, {expected_height}, {expected_width}]"
                )));
            }
            let length = values.len() / of;
            Ok((0..of).map(|index| ImageSource::Prepared(values.slice(index * length..(index + 1) * length))).collect())
        }
        (IMAGES, ..) => Err(wrong("UINT8 [N, H, W, 3] or FP32 [N, 3, H, W]")),
        _ => Err(Error::invalid(format!("there is no input `{name}`; the model has `{IMAGE}` and `{IMAGES}`"))),
    }
}

/// The detections of all images, each image's padded to `places`.
pub fn tensors(answers: &[Answer], places: usize) -> Vec<OutputTensor> {
    let count = answers.len();
    let all = count * places;
    let mut numbers = BytesMut::with_capacity(count * size_of::<i32>());
    let mut boxes = BytesMut::with_capacity(all * 4 * size_of::<f32>());
    let mut scores = BytesMut::with_capacity(all * size_of::<f32>());
    let mut classes = BytesMut::with_capacity(all * size_of::<i32>());
    for answer in answers {
        let found = answer.detections.len().min(places);
        numbers.put_i32_le(i32::try_from(found).unwrap_or(i32::MAX));
        for detection in &answer.detections[..found] {
            let bbox = detection.bbox;
            [bbox.x1, bbox.y1, bbox.x2, bbox.y2].into_iter().for_each(|side| boxes.put_f32_le(side));
            scores.put_f32_le(detection.score);
            classes.put_i32_le(i32::try_from(detection.class_id).unwrap_or(i32::MAX));
        }
        let padding = places - found;
        boxes.put_bytes(0, padding * 4 * size_of::<f32>());
        scores.put_bytes(0, padding * size_of::<f32>());
        (0..padding).for_each(|_| classes.put_i32_le(NO_CLASS));
    }
    let [numbers_name, boxes_name, scores_name, classes_name] = OUTPUTS;
    let tensor = |name: &str, datatype, shape: &[usize], data: BytesMut| OutputTensor {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        data: data.freeze(),
    };
    vec![
        tensor(numbers_name, Datatype::Int32, &[count, 1], numbers),
        tensor(boxes_name, Datatype::Fp32, &[count, places, 4], boxes),
        tensor(scores_name, Datatype::Fp32, &[count, places], scores),
        tensor(classes_name, Datatype::Int32, &[count, places], classes),
    ]
}
