use tch::{Device, Kind, Tensor};

use super::{Detect, NetworkError};

/// Turns raw outputs into boxes. Its constants are made once, as a traced network needs it: what is made from numbers
/// during a trace is recorded as zeros.
#[derive(Debug)]
pub struct Decoder {
    outputs: i64,
    anchors: i64,
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    stride: f64,
    /// Box priors in pixels: [1, anchors, 1, 1, 2].
    priors: Tensor,
    /// The cells' numbers for one size of the input, where it is known.
    cells: Option<Tensor>,
}

impl Decoder {
    /// A decoder for a network's heads; their anchors must not be blank.
    pub fn new(detect: &Detect) -> Result<Self, NetworkError> {
        if detect.anchors.len() != detect.strides.len() {
            let (levels, given) = (detect.strides.len(), detect.anchors.len());
            return Err(NetworkError::Model(format!("{levels} outputs, but anchors for {given} levels")));
        }
        let level = |(priors, stride): (&Vec<(f64, f64)>, &usize)| {
            let values: Vec<f32> = priors.iter().flat_map(|(width, height)| [*width as f32, *height as f32]).collect();
            let priors = Tensor::f_from_slice(&values)?.f_view([1, -1, 1, 1, 2])?;
            Ok::<_, NetworkError>(Level { stride: *stride as f64, priors, cells: None })
        };
        Ok(Self {
            outputs: i64::try_from(detect.outputs_per_anchor()).unwrap_or(i64::MAX),
            anchors: i64::try_from(detect.anchors_per_level).unwrap_or(i64::MAX),
            levels: detect.anchors.iter().zip(&detect.strides).map(level).collect::<Result<_, _>>()?,
        })
    }

    /// The same on another device.
    pub fn on(self, device: Device) -> Result<Self, NetworkError> {
        let moved = |level: Level| {
            let cells = level.cells.map(|cells| cells.f_to_device(device)).transpose()?;
            let priors = level.priors.f_to_device(device)?;
            Ok::<_, NetworkError>(Level { priors, cells, ..level })
        };
        let levels = self.levels.into_iter().map(moved).collect::<Result<_, _>>()?;
        Ok(Self { levels, ..self })
    }

    /// The same with everything made beforehand that inputs of one size need. A traced network then makes no tensors of
    /// its own, which would stay on the device of the trace.
    pub fn for_input(mut self, width: usize, height: usize) -> Result<Self, NetworkError> {
        for level in &mut self.levels {
            let side = |length: usize| (length as f64 / level.stride) as i64;
            level.cells = Some(cells(side(width), side(height), level.priors.device())?);
        }
        Ok(self)
    }

    /// Boxes from raw outputs: [N, rows, 5 + classes] with centre x, centre y, width, height in the network's input
    /// pixels, then probabilities of an object and of each class. Rows are ordered by level, anchor, y, x.
    ///
    /// Per cell (gx, gy) of stride s and anchor (aw, ah): centre x = (2 sigmoid(tx) - 0.5 + gx) s,
    /// width = aw (2 sigmoid(tw))^2, likewise in y.
    pub fn decode(&self, outputs: &[Tensor]) -> Result<Tensor, NetworkError> {
        if outputs.len() != self.levels.len() {
            let (given, expected) = (outputs.len(), self.levels.len());
            return Err(NetworkError::Model(format!("{given} outputs, expected {expected}")));
        }
        // The batch is written as -1, so that a traced network takes any number of pictures.
        let mut rows = Vec::with_capacity(outputs.len());
        for (raw, level) in outputs.iter().zip(&self.levels) {
            let (_, _, height, width) = raw.size4()?;
            let cells = match &level.cells {
                Some(cells) if cells.size()[2..4] == [height, width] => cells.shallow_clone(),
                _ => cells(width, height, raw.device())?,
            };
            let y = raw.f_view([-1, self.anchors, self.outputs, height, width])?;
            let y = y.f_permute([0, 1, 3, 4, 2])?.f_sigmoid()?;
            let centre = y.f_slice(4, 0, 2, 1)?.f_mul_scalar(2.0)?.f_sub_scalar(0.5)?.f_add(&cells)?;
            let centre = centre.f_mul_scalar(level.stride)?;
            let side = y.f_slice(4, 2, 4, 1)?.f_mul_scalar(2.0)?.f_square()?.f_mul(&level.priors)?;
            let rest = y.f_slice(4, 4, None, 1)?;
            let joined = Tensor::f_cat(&[centre, side, rest], 4)?;
            rows.push(joined.f_reshape([-1, self.anchors * height * width, self.outputs])?);
        }
        Ok(Tensor::f_cat(&rows, 1)?)
    }
}

/// Cell numbers: [1, 1, height, width, 2] with x, y.
fn cells(width: i64, height: i64, device: Device) -> Result<Tensor, NetworkError> {
    let options = (Kind::Float, device);
    let x = Tensor::f_arange(width, options)?.f_view([1, width])?.f_expand([height, width], false)?;
    let y = Tensor::f_arange(height, options)?.f_view([height, 1])?.f_expand([height, width], false)?;
    Ok(Tensor::f_stack(&[x, y], 2)?.f_view([1, 1, height, width, 2])?)
}
