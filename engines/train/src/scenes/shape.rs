//! What a part looks like from above: signed distances for the outline and a height for the shading.

use std::f32::consts::TAU;

use glam::Vec2;

/// A shape at one point. Lengths are in the shape's own units, in which it is about 1 long.
#[derive(Clone, Copy, Debug)]
pub struct Surface {
    /// Signed distance to the outline, negative inside. A lower bound is good enough.
    pub distance: f32,
    /// Height above the bench; its slope is what the light falls on.
    pub height: f32,
    /// Factor on the material's colour.
    pub tone: f32,
    /// Share of the second material in `[0, 1]`.
    pub accent: f32,
}

impl Surface {
    /// A surface of the first material at full tone.
    pub fn new(distance: f32, height: f32) -> Self {
        Self { distance, height, tone: 1.0, accent: 0.0 }
    }
}

/// Something that lies on the bench.
pub trait Shape {
    /// Radius of a circle around the origin that holds the whole shape.
    fn radius(&self) -> f32;

    /// The shape at `point`. `pixel` is the size of a pixel: detail finer than it is to be left out.
    fn surface(&self, point: Vec2, pixel: f32) -> Surface;
}

/// Distance to the line segment from `a` to `b`.
pub fn segment(point: Vec2, a: Vec2, b: Vec2) -> f32 {
    let (along, to_point) = (b - a, point - a);
    let t = (to_point.dot(along) / along.length_squared().max(1e-12)).clamp(0.0, 1.0);
    (to_point - along * t).length()
}

/// Distance to a box around the origin with half sides `half` and corners rounded by `corner`.
pub fn rounded_box(point: Vec2, half: Vec2, corner: f32) -> f32 {
    let outside = point.abs() - half + corner;
    outside.max(Vec2::ZERO).length() + outside.max_element().min(0.0) - corner
}

/// Distance to a regular polygon around the origin whose sides are `apothem` away from it.
pub fn polygon(point: Vec2, sides: u32, apothem: f32) -> f32 {
    let sector = TAU / sides as f32;
    let angle = (point.to_angle() + sector / 2.0).rem_euclid(sector) - sector / 2.0;
    point.length() * angle.cos() - apothem
}

/// A triangle wave with period 1 between -1 and 1.
pub fn triangle_wave(t: f32) -> f32 {
    1.0 - 4.0 * (t.rem_euclid(1.0) - 0.5).abs()
}

/// Rises smoothly from 0 at `low` to 1 at `high`.
pub fn smoothstep(low: f32, high: f32, t: f32) -> f32 {
    let t = ((t - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Height of a plate of thickness `height` whose edge is rounded over `width`.
pub fn bevel(distance: f32, width: f32, height: f32) -> f32 {
    let t = (-distance / width).clamp(0.0, 1.0);
    height * t * (2.0 - t)
}

/// Height of a lying cylinder of radius `radius` at distance `offset` from its axis.
pub fn cylinder(offset: f32, radius: f32) -> f32 {
    (radius * radius - offset * offset).max(0.0).sqrt()
}

/// 1 where a pattern of period `period` can be drawn with pixels of size `pixel`, fading to 0 where it cannot.
pub fn resolvable(period: f32, pixel: f32) -> f32 {
    smoothstep(1.6, 3.2, period / pixel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_known_points() {
        assert!((rounded_box(Vec2::new(3.0, 0.0), Vec2::new(1.0, 0.5), 0.1) - 2.0).abs() < 1e-6);
        assert!((rounded_box(Vec2::ZERO, Vec2::new(1.0, 0.5), 0.0) + 0.5).abs() < 1e-6);
        assert!((segment(Vec2::new(0.0, 2.0), Vec2::new(-1.0, 0.0), Vec2::new(1.0, 0.0)) - 2.0).abs() < 1e-6);
        assert!((polygon(Vec2::new(1.0, 0.0), 6, 0.75) - 0.25).abs() < 1e-6);
        assert!(polygon(Vec2::new(0.0, 0.0), 6, 0.75) < 0.0);
    }

    #[test]
    fn triangle_wave_peaks_in_the_middle_of_its_period() {
        assert_eq!(triangle_wave(0.5), 1.0);
        assert_eq!(triangle_wave(0.0), -1.0);
        assert_eq!(triangle_wave(1.25), 0.0);
    }
}
