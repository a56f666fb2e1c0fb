//! A request's options as the kernels take them, and their answer as detections.

use detectd_vision::{
    BoundingBox, Candidates, Coordinates, DetectOptions, Detection, Head, Letterbox, MAX_SOFT_CANDIDATES, MatrixKernel,
    Nms, soft_nms,
};

use crate::head::picture_size;
use crate::layout::{Kept, Method, Request};
use crate::postprocess::Asked;

impl Asked {
    /// What `options` ask of a picture.
    #[must_use]
    pub fn new(head: &Head, options: &DetectOptions, letterbox: &Letterbox) -> Self {
        let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let mut request = Request {
            score_threshold: options.score_threshold,
            method: Method::Candidates.code(),
            multi_label: u32::from(options.multi_label),
            agnostic: u32::from(options.class_agnostic),
            most: count(options.max_detections),
            top_k: u32::MAX,
            picture: picture_size(head, letterbox),
            ..Request::default()
        };
        match &options.nms {
            Nms::Matrix(matrix) => {
                request.method = match matrix.kernel {
                    MatrixKernel::Linear => Method::MatrixLinear.code(),
                    MatrixKernel::Gaussian => Method::MatrixGaussian.code(),
                };
                (request.sigma, request.post_threshold) = (matrix.sigma, matrix.post_threshold);
                request.offset = if matrix.normalized { 0.0 } else { 1.0 };
                request.top_k = matrix.top_k.map_or(u32::MAX, count);
            }
            Nms::Greedy(greedy) => {
                request.method = Method::Greedy.code();
                (request.iou_threshold, request.eta) = (greedy.iou_threshold, greedy.eta);
                request.top_k = greedy.top_k.map_or(u32::MAX, count);
            }
            // Soft-NMS picks one box after the other: the CPU does it, with the candidates that take part.
            Nms::Soft(_) => request.most = MAX_SOFT_CANDIDATES as u32,
        }
        Self { request, allowed: options.classes.clone() }
    }
}

/// The kept boxes of a picture in its own pixels, best first.
#[must_use]
pub fn detections(kept: &[Kept], head: &Head, options: &DetectOptions, letterbox: &Letterbox) -> Vec<Detection> {
    let coordinates = head.coordinates(letterbox);
    let detection = |corners: [f32; 4], score: f32, class_id: u32| {
        let [x1, y1, x2, y2] = corners;
        let bbox = BoundingBox { x1, y1, x2, y2 };
        let bbox = match coordinates {
            Coordinates::Input => letterbox.unmap(bbox),
            Coordinates::Source => letterbox.clip(bbox),
        };
        Detection { class_id, score, bbox }
    };
    let Nms::Soft(parameters) = &options.nms else {
        return kept.iter().map(|kept| detection(kept.corners, kept.score, kept.label)).collect();
    };
    let mut candidates = Candidates::new();
    kept.iter().for_each(|kept| candidates.push(kept.corners, kept.score, kept.label, kept.row));
    let kept = soft_nms(&candidates, parameters, options.class_agnostic, options.max_detections);
    kept.into_iter()
        .map(|kept| detection(candidates.corners()[kept.index], kept.score, candidates.classes()[kept.index]))
        .collect()
}
