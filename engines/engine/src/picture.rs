//! A picture on its way into an engine.

use bytes::Bytes;

use detectd_vision::{Image, Letterbox};
use serde::{Deserialize, Serialize};

/// How far a picture is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The bytes of a picture file.
    Encoded,
    /// Pixels, in the picture's own size.
    Decoded,
    /// The network's input, resized and normalised.
    Letterboxed,
}

/// A picture at one of the stages.
#[derive(Clone, Debug)]
pub enum Picture {
    /// The bytes of a picture file.
    Encoded(Bytes),
    /// Pixels, in the picture's own size.
    Decoded(Image),
    /// The network's input.
    Letterboxed {
        /// `3 * height * width` values in channel, row, column order.
        input: Vec<f32>,
        /// Where the picture lies in it.
        letterbox: Letterbox,
    },
}

impl Picture {
    /// How far it is prepared.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Encoded(_) => Stage::Encoded,
            Self::Decoded(_) => Stage::Decoded,
            Self::Letterboxed { .. } => Stage::Letterboxed,
        }
    }
}
