//! The parts a detector learns to find.

mod fasteners;
mod machine;

use rand::Rng;

use super::shape::Shape;

/// Class names, in the order of their ids.
pub const CLASSES: [&str; 8] = ["bolt", "screw", "nut", "washer", "gear", "spring", "wrench", "bearing"];

/// A part of class `class_id`, its proportions drawn at random.
pub fn part(class_id: u32, rng: &mut impl Rng) -> Box<dyn Shape> {
    match class_id {
        0 => Box::new(fasteners::Bolt::random(rng)),
        1 => Box::new(fasteners::Screw::random(rng)),
        2 => Box::new(fasteners::Nut::random(rng)),
        3 => Box::new(fasteners::Washer::random(rng)),
        4 => Box::new(machine::Gear::random(rng)),
        5 => Box::new(machine::Spring::random(rng)),
        6 => Box::new(machine::Wrench::random(rng)),
        _ => Box::new(machine::Bearing::random(rng)),
    }
}

/// How long a part of class `class_id` may be, as shares of the picture's shorter side.
pub fn length_range(class_id: u32) -> (f32, f32) {
    match CLASSES[class_id as usize] {
        "wrench" => (0.32, 0.52),
        "bolt" | "screw" | "spring" => (0.19, 0.40),
        "gear" | "bearing" => (0.15, 0.34),
        _ => (0.12, 0.26),
    }
}
