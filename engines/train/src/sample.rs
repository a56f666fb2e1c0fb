//! A labelled picture: what scenes are drawn as, what augmentation changes, what training consumes.

use detectd_vision::{BoundingBox, Image};

/// One object in a picture and where it is, in the picture's pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelledBox {
    /// Index into the class names.
    pub class_id: u32,
    /// The tight box of the object's visible outline.
    pub bbox: BoundingBox,
}

/// A picture and all objects in it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The pixels.
    pub image: Image,
    /// The objects, in no particular order.
    pub boxes: Vec<LabelledBox>,
}
