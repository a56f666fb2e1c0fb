//! Rendered training pictures: hardware on a workbench, seen from above.
//!
//! A scene is drawn from its seed alone, so a data set is a range of numbers, and the same everywhere as far as the
//! platform's floating-point functions agree. Parts lie on a textured bench among clutter and partly on each other;
//! each is drawn from signed distances with a height, lit by one lamp that also throws its shadow. Labels come from
//! the drawn pixels: a part's box is the tight box of the pixels of it that are visible, and a part of which less than
//! [`MIN_VISIBLE`] can be seen (hidden by others or beyond the edge) has no label.

mod bench;
mod camera;
mod canvas;
mod clutter;
mod light;
mod noise;
mod parts;
mod shape;

use std::f32::consts::TAU;

use glam::{IVec2, Vec2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use parts::CLASSES;

use crate::sample::{LabelledBox, Sample};
use canvas::{Canvas, Paint, Tile};
use light::{Light, Material};
use shape::Shape;

/// The share of a part's pixels that must be visible for the part to be labelled.
pub const MIN_VISIBLE: f32 = 0.35;

/// The smallest side of a labelled box, as a share of the picture's shorter side.
const MIN_SIDE: f32 = 0.02;

/// Draws the scene with number `seed`. Sides below 32 are raised to 32.
#[must_use]
pub fn render(seed: u64, width: u32, height: u32) -> Sample {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let (width, height) = (width.max(32), height.max(32));
    let side = width.min(height) as f32;
    let (bench, light) = (bench::Bench::random(rng), Light::random(rng));
    let mut canvas = Canvas::new(width, height, |x, y| bench.colour(Vec2::new(x, y) / side, 1.0 / side));
    clutter::scatter(&mut canvas, &light, rng);

    let zoom = rng.random_range(0.8..1.2);
    // How much of a part another may cover: mostly little, in some scenes a heap.
    let crowding = if rng.random_bool(0.75) { 0.12 } else { 0.5 };
    let mut placed = Vec::new();
    for _ in 0..rng.random_range(2..=9) {
        let class_id = rng.random_range(0..CLASSES.len() as u32);
        let (low, high) = parts::length_range(class_id);
        let length = (rng.random_range(low..high) * zoom).max(0.12) * side;
        let shape = parts::part(class_id, rng);
        let (material, accent) = materials(class_id, rng);
        let item = Item { class_id: Some(class_id), shape: &*shape, length, material, accent };
        item.place(&mut canvas, &light, crowding, &mut placed, rng);
    }
    if rng.random_bool(0.3) {
        let (shape, material, accent, share) = clutter::stray(rng);
        let item = Item { class_id: None, shape: &*shape, length: share * side, material, accent };
        item.place(&mut canvas, &light, crowding, &mut placed, rng);
    }

    let boxes = placed
        .iter()
        .filter_map(|part| {
            let (visible, bbox) = canvas.visible(part.number);
            let seen = visible as f32 >= MIN_VISIBLE * part.area as f32;
            let large = bbox.width().min(bbox.height()) >= MIN_SIDE * side;
            Some(LabelledBox { class_id: part.class_id?, bbox }).filter(|_| seen && large)
        })
        .collect();
    Sample { image: camera::photograph(&canvas, rng), boxes }
}

/// An object on the canvas.
struct Placed {
    number: u8,
    class_id: Option<u32>,
    area: u32,
}

struct Item<'a> {
    class_id: Option<u32>,
    shape: &'a dyn Shape,
    length: f32,
    material: Material,
    accent: Material,
}

impl Item<'_> {
    /// Draws the item where it covers no more than the share `crowding` of any other; leaves it out if no such place
    /// is found.
    fn place(&self, canvas: &mut Canvas, light: &Light, crowding: f32, placed: &mut Vec<Placed>, rng: &mut impl Rng) {
        const TRIES: usize = 12;
        let lift = self.length * rng.random_range(0.03..0.09) + 1.0;
        let offset = Vec2::new(rng.random_range(-0.5..0.5), rng.random_range(-0.5..0.5));
        let margin = lift * (light.shadow_offset().length() * (1.0 + light.softness)) + 2.0;
        let tile = Tile::new(self.shape, self.length, rng.random_range(0.0..TAU), rng.random_bool(0.5), offset, margin);
        let (seed, number) = (rng.random(), placed.len() as u8 + 1);
        for _ in 0..TRIES {
            let at = Vec2::new(rng.random_range(0.05..0.95), rng.random_range(0.05..0.95));
            let centre = IVec2::new((at.x * canvas.width as f32) as i32, (at.y * canvas.height as f32) as i32);
            let hidden = canvas.hidden_by(&tile, centre);
            if placed.iter().any(|part| hidden[part.number as usize] as f32 > crowding * part.area as f32) {
                continue;
            }
            let paint = Paint { material: &self.material, accent: &self.accent, lift, seed };
            canvas.draw(&tile, centre, &paint, light, number);
            placed.push(Placed { number, class_id: self.class_id, area: tile.area() });
            return;
        }
    }
}

/// What a part of `class_id` is made of: metal, and for a wrench's inlay and a bearing's shield some paint or rubber.
/// Wrenches and bearings are nearly always steel, the rest often brass or copper.
fn materials(class_id: u32, rng: &mut impl Rng) -> (Material, Material) {
    let has_accent = matches!(CLASSES[class_id as usize], "wrench" | "bearing");
    let metal = if rng.random_bool(if has_accent { 0.08 } else { 0.35 }) {
        Material::random_coloured_metal(rng)
    } else {
        Material::random_steel(rng)
    };
    (metal, if has_accent && rng.random_bool(0.7) { Material::random_paint(rng) } else { metal })
}

#[cfg(test)]
mod tests;
