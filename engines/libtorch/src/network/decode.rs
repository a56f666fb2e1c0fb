use tch::{Device, Kind, Tensor};

use super::{Detect, NetworkError};

/// Boxes from raw outputs: [N, rows, 5 + classes] with centre x, centre y, width, height in the network's input pixels,
/// then probabilities of an object and of each class. Rows are ordered by level, anchor, y, x.
///
/// Per cell (gx, gy) of stride s and anchor (aw, ah): centre x = (2 sigmoid(tx) - 0.5 + gx) s,
/// width = aw (2 sigmoid(tw))^2, likewise in y.
pub fn decode(detect: &Detect, levels: &[Tensor]) -> Result<Tensor, NetworkError> {
    if detect.anchors.len() != levels.len() {
        let problem = format!("{} outputs, but anchors for {} levels", levels.len(), detect.anchors.len());
        return Err(NetworkError::Model(problem));
    }
    let outputs = i64::try_from(detect.outputs_per_anchor()).unwrap_or(i64::MAX);
    let anchors = i64::try_from(detect.anchors_per_level).unwrap_or(i64::MAX);
    // The batch is written as -1, so that a traced network takes any number of pictures.
    let mut rows = Vec::with_capacity(levels.len());
    for ((level, priors), stride) in levels.iter().zip(&detect.anchors).zip(&detect.strides) {
        let (_, _, height, width) = level.size4()?;
        let stride = *stride as f64;
        let y = level.f_view([-1, anchors, outputs, height, width])?.f_permute([0, 1, 3, 4, 2])?.f_sigmoid()?;
        let centre = y.f_slice(4, 0, 2, 1)?.f_mul_scalar(2.0)?.f_sub_scalar(0.5)?.f_add(&grid(width, height)?)?;
        let centre = centre.f_mul_scalar(stride)?;
        let side = y.f_slice(4, 2, 4, 1)?.f_mul_scalar(2.0)?.f_square()?.f_mul(&anchor_grid(priors)?)?;
        let rest = y.f_slice(4, 4, None, 1)?;
        rows.push(Tensor::f_cat(&[centre, side, rest], 4)?.f_reshape([-1, anchors * height * width, outputs])?);
    }
    Ok(Tensor::f_cat(&rows, 1)?)
}

/// Cell numbers: [1, 1, height, width, 2] with x, y.
pub fn grid(width: i64, height: i64) -> Result<Tensor, NetworkError> {
    let options = (Kind::Float, Device::Cpu);
    let x = Tensor::f_arange(width, options)?.f_view([1, width])?.f_expand([height, width], false)?;
    let y = Tensor::f_arange(height, options)?.f_view([height, 1])?.f_expand([height, width], false)?;
    Ok(Tensor::f_stack(&[x, y], 2)?.f_view([1, 1, height, width, 2])?)
}

/// Box priors of one level in pixels: [1, anchors, 1, 1, 2].
fn anchor_grid(priors: &[(f64, f64)]) -> Result<Tensor, NetworkError> {
    let values: Vec<f32> = priors.iter().flat_map(|(width, height)| [*width as f32, *height as f32]).collect();
    Ok(Tensor::f_from_slice(&values)?.f_view([1, -1, 1, 1, 2])?)
}
