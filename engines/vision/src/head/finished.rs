//! Outputs of graphs that end with NMS: scored and labelled boxes.

use super::view::{floats, integers};
use super::{Head, HeadError, OutputView};
use crate::{Candidates, DetectOptions, Real};

/// Passes labelled boxes through the threshold and the class filter.
struct Labelled<'a, T> {
    options: &'a DetectOptions,
    out: &'a mut Candidates<T>,
}

impl<T: Real> Labelled<'_, T> {
    fn take(&mut self, row: usize, corners: [f32; 4], score: f32, label: f32) {
        // A label below 0 marks an empty row.
        if score > self.options.score_threshold && label >= 0.0 && self.options.allows(label as u32) {
            self.out.push(corners.map(T::from_f32), T::from_f32(score), label as u32, row as u32);
        }
    }
}

/// `[K, 6]` of label, score, corners; the rows of each picture follow each other.
pub(super) fn paddle<T: Real>(
    outputs: &[OutputView<'_>],
    image: usize,
    options: &DetectOptions,
    out: &mut Candidates<T>,
) -> Result<(), HeadError> {
    let counts = integers(&outputs[1])?;
    let rows = floats(&outputs[0])?;
    let total: i64 = counts.iter().fold(0, |sum, count| sum.saturating_add((*count).max(0)));
    if counts.iter().any(|count| *count < 0) || total as u64 > rows.len() as u64 / 6 {
        return Err(HeadError::Data {
            output: outputs[1].name.to_owned(),
            expected: format!("counts that add up to at most {}", rows.len() / 6),
            got: format!("{counts:?}"),
        });
    }
    let first = counts[..image].iter().sum::<i64>() as usize;
    let mut labelled = Labelled { options, out };
    for (index, row) in rows.chunks_exact(6).skip(first).take(counts[image] as usize).enumerate() {
        labelled.take(index, [row[2], row[3], row[4], row[5]], row[1], row[0]);
    }
    Ok(())
}

/// `[K, 6]` of corners, score, label, for one picture.
pub(super) fn end_to_end<T: Real>(rows: &[f32], options: &DetectOptions, out: &mut Candidates<T>) {
    let mut labelled = Labelled { options, out };
    for (index, row) in rows.chunks_exact(6).enumerate() {
        labelled.take(index, [row[0], row[1], row[2], row[3]], row[4], row[5]);
    }
}

/// Count, corners, scores and labels of one picture.
pub(super) fn efficient_nms<T: Real>(
    outputs: &[OutputView<'_>],
    image: usize,
    options: &DetectOptions,
    out: &mut Candidates<T>,
) -> Result<(), HeadError> {
    let most = outputs[1].shape[1];
    let count = integers(&outputs[0])?[image];
    if count < 0 || count as u64 > most as u64 {
        return Err(HeadError::Data {
            output: outputs[0].name.to_owned(),
            expected: format!("counts between 0 and {most}"),
            got: format!("{count} for picture {image}"),
        });
    }
    let boxes = &floats(&outputs[1])?[image * most * 4..][..most * 4];
    let scores = &floats(&outputs[2])?[image * most..][..most];
    // Labels come as integers from TensorRT, as floats from some converters.
    let labels: Vec<f32> = match outputs[3].data {
        super::OutputData::F32(labels) => labels[image * most..][..most].to_vec(),
        _ => integers(&outputs[3])?[image * most..][..most].iter().map(|label| *label as f32).collect(),
    };
    let mut labelled = Labelled { options, out };
    for (index, corners) in boxes.chunks_exact(4).take(count as usize).enumerate() {
        labelled.take(index, [corners[0], corners[1], corners[2], corners[3]], scores[index], labels[index]);
    }
    Ok(())
}

impl Head {
    /// The graph has suppressed overlapping boxes already: the options' NMS does not apply.
    #[must_use]
    pub fn has_nms(&self) -> bool {
        matches!(self, Self::PaddleNms { .. } | Self::EndToEnd | Self::EfficientNms)
    }
}
