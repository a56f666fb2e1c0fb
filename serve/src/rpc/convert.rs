//! Between the wire's messages and the pipeline's types. Everything that a request can say is checked here or where
//! it is used; nothing is trusted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use detectd_proto::detect::v1 as wire;
use detectd_vision::{DetectOptions, MatrixKernel, Nms, RawLayout, SoftKernel};

use super::status::log_answer;
use crate::batch::Priority;
use crate::error::Error;
use crate::options::{RequestedNms, RequestedOptions, SoftKernelName};
use crate::pipeline::{Answer, DetectJob, ImageSource};

/// A request identifier may not be longer, in bytes.
pub(crate) const MAX_REQUEST_ID: usize = 128;

/// A request for one image.
///
/// # Errors
/// INVALID_ARGUMENT that names the field.
pub fn job(request: wire::DetectRequest, deadline: Option<Instant>) -> Result<DetectJob, Error> {
    request_id(&request.request_id)?;
    Ok(DetectJob {
        model: request.model,
        version: request.version,
        rollout_key: request.rollout_key,
        image: image(request.image)?,
        options: Arc::new(options(request.options.unwrap_or_default())?),
        priority: priority(request.priority)?,
        deadline,
    })
}

/// What a request for several images says of all of them; each image is taken by [`fn@image`].
///
/// # Errors
/// INVALID_ARGUMENT that names the field.
pub fn batch_job(
    request: &wire::DetectBatchRequest,
    max_images: usize,
) -> Result<(Arc<RequestedOptions>, Priority), Error> {
    request_id(&request.request_id)?;
    let count = request.images.len();
    if count == 0 {
        return Err(Error::invalid("images: expected one or more, got none"));
    }
    if count > max_images {
        return Err(Error::invalid(format!("images: expected at most {max_images}, this server's limit, got {count}")));
    }
    let options = options(request.options.clone().unwrap_or_default())?;
    Ok((Arc::new(options), priority(request.priority)?))
}

fn request_id(id: &str) -> Result<(), Error> {
    if id.len() > MAX_REQUEST_ID {
        return Err(Error::invalid(format!("request_id: expected at most {MAX_REQUEST_ID} bytes, got {}", id.len())));
    }
    Ok(())
}

/// An image as it came.
///
/// # Errors
/// INVALID_ARGUMENT when there is none, or its layout is unknown.
pub fn image(image: Option<wire::Image>) -> Result<ImageSource, Error> {
    match image.and_then(|image| image.source) {
        Some(wire::image::Source::Encoded(bytes)) => Ok(ImageSource::Encoded(bytes)),
        Some(wire::image::Source::Raw(raw)) => Ok(ImageSource::Raw {
            layout: layout(raw.layout)?,
            data: raw.data,
            width: raw.width,
            height: raw.height,
            stride: (raw.row_stride > 0).then_some(raw.row_stride as usize),
        }),
        None => Err(Error::invalid("image: expected `encoded` or `raw`, got neither")),
    }
}

fn layout(value: i32) -> Result<RawLayout, Error> {
    match wire::PixelLayout::try_from(value) {
        Ok(wire::PixelLayout::Unspecified | wire::PixelLayout::Rgb) => Ok(RawLayout::Rgb8Hwc),
        Ok(wire::PixelLayout::Bgr) => Ok(RawLayout::Bgr8Hwc),
        Ok(wire::PixelLayout::Rgba) => Ok(RawLayout::Rgba8Hwc),
        Ok(wire::PixelLayout::Bgra) => Ok(RawLayout::Bgra8Hwc),
        Ok(wire::PixelLayout::Gray) => Ok(RawLayout::Gray8),
        Ok(wire::PixelLayout::RgbPlanar) => Ok(RawLayout::Rgb8Chw),
        Err(_) => Err(Error::invalid(format!("image.raw.layout: {value} is no PixelLayout"))),
    }
}

fn priority(value: i32) -> Result<Priority, Error> {
    match wire::Priority::try_from(value) {
        Ok(wire::Priority::Unspecified | wire::Priority::Normal) => Ok(Priority::Normal),
        Ok(wire::Priority::Low) => Ok(Priority::Low),
        Ok(wire::Priority::High) => Ok(Priority::High),
        Err(_) => Err(Error::invalid(format!("priority: {value} is no Priority"))),
    }
}

fn options(options: wire::DetectOptions) -> Result<RequestedOptions, Error> {
    let nms = match options.nms.and_then(|nms| nms.method) {
        None => None,
        Some(wire::nms::Method::Matrix(matrix)) => Some(RequestedNms::Matrix {
            kernel: kernel(matrix.kernel)?.map(|gaussian| match gaussian {
                true => MatrixKernel::Gaussian,
                false => MatrixKernel::Linear,
            }),
            sigma: matrix.sigma,
            post_threshold: matrix.post_threshold,
            top_k: matrix.top_k,
        }),
        Some(wire::nms::Method::Greedy(greedy)) => Some(RequestedNms::Greedy { iou_threshold: greedy.iou_threshold }),
        Some(wire::nms::Method::Soft(soft)) => Some(RequestedNms::Soft {
            kernel: kernel(soft.kernel)?.map(|gaussian| match gaussian {
                true => SoftKernelName::Gaussian,
                false => SoftKernelName::Linear,
            }),
            sigma: soft.sigma,
            iou_threshold: soft.iou_threshold,
        }),
    };
    Ok(RequestedOptions {
        score_threshold: options.score_threshold,
        nms,
        max_detections: options.max_detections,
        class_ids: options.class_ids,
        class_labels: options.class_labels,
        class_agnostic: options.class_agnostic,
    })
}

/// Whether the kernel is the gaussian one; `None` when nothing is said.
fn kernel(value: i32) -> Result<Option<bool>, Error> {
    match wire::NmsKernel::try_from(value) {
        Ok(wire::NmsKernel::Unspecified) => Ok(None),
        Ok(wire::NmsKernel::Linear) => Ok(Some(false)),
        Ok(wire::NmsKernel::Gaussian) => Ok(Some(true)),
        Err(_) => Err(Error::invalid(format!("options.nms: {value} is no NmsKernel"))),
    }
}

/// The answer for one image.
#[must_use]
pub fn response(answer: &Answer, request_id: String) -> wire::DetectResponse {
    log_answer(&request_id);
    let labels = answer.version.labels();
    let detections = answer.detections.iter().map(|detection| wire::Detection {
        r#box: Some(wire::BoundingBox {
            x1: detection.bbox.x1,
            y1: detection.bbox.y1,
            x2: detection.bbox.x2,
            y2: detection.bbox.y2,
        }),
        class_id: detection.class_id,
        label: labels.get(detection.class_id as usize).cloned().unwrap_or_default(),
        score: detection.score,
    });
    wire::DetectResponse {
        detections: detections.collect(),
        image_width: answer.image_size.0,
        image_height: answer.image_size.1,
        model: answer.version.name().to_owned(),
        version: answer.version.version(),
        timings: Some(wire::Timings {
            decode_us: microseconds(answer.times.decode),
            queue_us: microseconds(answer.times.queue),
            compute_us: microseconds(answer.times.compute),
            postprocess_us: microseconds(answer.times.postprocess),
            total_us: microseconds(answer.total),
            batch_size: u32::try_from(answer.batch_size).unwrap_or(u32::MAX),
        }),
        request_id,
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A model's default options, as a client would state them.
#[must_use]
pub fn default_options(options: &DetectOptions) -> wire::DetectOptions {
    let method = match &options.nms {
        Nms::Matrix(matrix) => wire::nms::Method::Matrix(wire::MatrixNms {
            kernel: match matrix.kernel {
                MatrixKernel::Linear => wire::NmsKernel::Linear.into(),
                MatrixKernel::Gaussian => wire::NmsKernel::Gaussian.into(),
            },
            sigma: Some(matrix.sigma),
            post_threshold: Some(matrix.post_threshold),
            top_k: matrix.top_k.map(|top_k| u32::try_from(top_k).unwrap_or(u32::MAX)),
        }),
        Nms::Greedy(greedy) => wire::nms::Method::Greedy(wire::GreedyNms { iou_threshold: Some(greedy.iou_threshold) }),
        Nms::Soft(soft) => wire::nms::Method::Soft(match soft.kernel {
            SoftKernel::Linear { iou_threshold } => wire::SoftNms {
                kernel: wire::NmsKernel::Linear.into(),
                sigma: None,
                iou_threshold: Some(iou_threshold),
            },
            SoftKernel::Gaussian { sigma } => {
                wire::SoftNms { kernel: wire::NmsKernel::Gaussian.into(), sigma: Some(sigma), iou_threshold: None }
            }
        }),
    };
    wire::DetectOptions {
        score_threshold: Some(options.score_threshold),
        nms: Some(wire::Nms { method: Some(method) }),
        max_detections: Some(u32::try_from(options.max_detections).unwrap_or(u32::MAX)),
        class_ids: options.classes.clone().unwrap_or_default(),
        class_labels: Vec::new(),
        class_agnostic: Some(options.class_agnostic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> wire::DetectRequest {
        let source = wire::image::Source::Encoded(vec![1, 2, 3].into());
        wire::DetectRequest { image: Some(wire::Image { source: Some(source) }), ..wire::DetectRequest::default() }
    }

    #[test]
    fn what_a_request_leaves_out_is_the_default() {
        let job = job(request(), None).unwrap();
        assert_eq!(*job.options, RequestedOptions::default());
        assert_eq!((job.version, job.priority), (0, Priority::Normal));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let raw = |layout| wire::Image {
            source: Some(wire::image::Source::Raw(wire::RawImage { layout, ..wire::RawImage::default() })),
        };
        let nms = |kernel| wire::DetectOptions {
            nms: Some(wire::Nms {
                method: Some(wire::nms::Method::Soft(wire::SoftNms { kernel, ..wire::SoftNms::default() })),
            }),
            ..wire::DetectOptions::default()
        };
        let cases = [
            (wire::DetectRequest { image: None, ..request() }, "image"),
            (wire::DetectRequest { image: Some(wire::Image { source: None }), ..request() }, "image"),
            (wire::DetectRequest { image: Some(raw(99)), ..request() }, "image.raw.layout: 99"),
            (wire::DetectRequest { priority: -1, ..request() }, "priority: -1"),
            (wire::DetectRequest { options: Some(nms(7)), ..request() }, "options.nms: 7"),
            (wire::DetectRequest { request_id: "x".repeat(129), ..request() }, "request_id"),
        ];
        for (request, expected) in cases {
            let error = job(request, None).unwrap_err();
            assert!(error.message.contains(expected), "{}", error.message);
        }
    }

    #[test]
    fn the_number_of_images_is_bounded() {
        let of = |count| wire::DetectBatchRequest {
            images: vec![wire::Image::default(); count],
            ..wire::DetectBatchRequest::default()
        };
        assert!(batch_job(&of(0), 4).unwrap_err().message.contains("got none"));
        assert!(batch_job(&of(5), 4).unwrap_err().message.contains("at most 4"));
        assert!(batch_job(&of(4), 4).is_ok());
    }
}
