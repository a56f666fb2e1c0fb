//! The number type of the formulas: `f32` in service, `f64` when they are checked against references.

use num_traits::Float;

/// `f32` or `f64`.
pub trait Real: Float + Default + std::fmt::Debug + Send + Sync + 'static {
    /// Widens (or keeps) a stored value.
    fn from_f32(value: f32) -> Self;
    /// Rounds (or keeps) a value computed in double precision.
    fn from_f64(value: f64) -> Self;
    /// Rounds (or keeps) the value for an answer.
    fn as_f32(self) -> f32;
    /// Widens (or keeps) the value.
    fn as_f64(self) -> f64;
}

impl Real for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn as_f32(self) -> f32 {
        self
    }
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn from_f32(value: f32) -> Self {
        Self::from(value)
    }
    fn from_f64(value: f64) -> Self {
        value
    }
    fn as_f32(self) -> f32 {
        self as f32
    }
    fn as_f64(self) -> f64 {
        self
    }
}
