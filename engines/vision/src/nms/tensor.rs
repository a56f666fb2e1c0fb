//! Matrix NMS on whole tensors, with the arguments and answers of Paddle's `matrix_nms`.

use super::matrix::{Entry, MatrixScratch, Run};
use crate::{MatrixKernel, Real};

/// Scores compared with the threshold at once.
const TOGETHER: usize = 16;

/// Boxes and scores of a batch.
#[derive(Clone, Copy, Debug)]
pub struct MatrixNmsBatch<'a, T> {
    /// Number of pictures, `N`.
    pub images: usize,
    /// Number of classes, `C`.
    pub classes: usize,
    /// Boxes of each picture, `M`.
    pub boxes: usize,
    /// `N * M` corners `[x1, y1, x2, y2]`.
    pub corners: &'a [[T; 4]],
    /// `N * C * M` scores.
    pub scores: &'a [T],
}

/// Arguments as Paddle names them; -1 stands for all or none.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixNmsArguments {
    /// Candidates have a greater score.
    pub score_threshold: f32,
    /// What is kept has a greater decayed score.
    pub post_threshold: f32,
    /// Most candidates of each class; -1: all.
    pub nms_top_k: i64,
    /// Most that are kept of each picture; -1: all.
    pub keep_top_k: i64,
    /// Gaussian kernel; otherwise linear.
    pub use_gaussian: bool,
    /// Factor in the Gaussian kernel, above 0.
    pub gaussian_sigma: f32,
    /// A class that takes no part; -1: none.
    pub background_label: i64,
    /// Continuous coordinates; otherwise they count pixels.
    pub normalized: bool,
}

/// What is kept: a row of each picture after the other, best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatrixNmsOutput<T> {
    /// Rows of each picture.
    pub counts: Vec<usize>,
    /// Class of each row.
    pub labels: Vec<u32>,
    /// Decayed score of each row.
    pub scores: Vec<T>,
    /// Where the row's box is among the `N * M` corners.
    pub indices: Vec<usize>,
}

/// Matrix NMS of a batch. Scores and boxes that are not finite take no part. Equal scores come in order of class, then
/// of box. `None` if the slices do not have the lengths that the sizes say.
#[must_use]
pub fn matrix_nms_batch<T: Real>(
    batch: &MatrixNmsBatch<'_, T>,
    arguments: &MatrixNmsArguments,
    scratch: &mut MatrixScratch<T>,
) -> Option<MatrixNmsOutput<T>> {
    let MatrixNmsBatch { images, classes, boxes, corners, scores } = *batch;
    let every_box = images.checked_mul(boxes)?;
    if corners.len() != every_box || scores.len() != every_box.checked_mul(classes)? {
        return None;
    }
    let all_or = |count: i64| usize::try_from(count).unwrap_or(usize::MAX);
    let run = Run {
        kernel: if arguments.use_gaussian { MatrixKernel::Gaussian } else { MatrixKernel::Linear },
        sigma: T::from_f32(arguments.gaussian_sigma),
        post_threshold: T::from_f32(arguments.post_threshold),
        top_k: all_or(arguments.nms_top_k),
        most: all_or(arguments.keep_top_k),
        normalized: arguments.normalized,
    };
    let threshold = T::from_f32(arguments.score_threshold);
    let mut output = MatrixNmsOutput { counts: Vec::with_capacity(images), ..MatrixNmsOutput::default() };
    for image in 0..images {
        let corners = &corners[image * boxes..][..boxes];
        let usable = |index: usize| corners[index].iter().all(|value| value.is_finite());
        scratch.entries.clear();
        for class in (0..classes).filter(|class| *class as i64 != arguments.background_label) {
            let scores = &scores[(image * classes + class) * boxes..][..boxes];
            let mut take = |index: usize, score: T| {
                if score > threshold && score.is_finite() && usable(index) {
                    let (class, corners) = (class as u32, index as u32);
                    scratch.entries.push(Entry { score, class, corners });
                }
            };
            // Most scores of most classes are below the threshold: these are passed over many at once.
            let (many, rest) = scores.as_chunks::<TOGETHER>();
            for (first, scores) in (0..).step_by(TOGETHER).zip(many) {
                if scores.iter().map(|score| u32::from(*score > threshold)).sum::<u32>() > 0 {
                    (first..).zip(scores).for_each(|(index, score)| take(index, *score));
                }
            }
            (boxes - rest.len()..).zip(rest).for_each(|(index, score)| take(index, *score));
        }
        let kept = run.decay(corners, scratch);
        output.counts.push(kept.len());
        output.labels.extend(kept.iter().map(|entry| entry.class));
        output.scores.extend(kept.iter().map(|entry| entry.score));
        output.indices.extend(kept.iter().map(|entry| image * boxes + entry.corners as usize));
    }
    Some(output)
}
