//! Bolts, screws, nuts and washers.

use glam::Vec2;
use rand::Rng;

use crate::scenes::shape::{Shape, Surface, bevel, cylinder, polygon, resolvable, rounded_box, triangle_wave};

/// A bolt on its side: a hexagonal head and a threaded shank with a flat end.
pub struct Bolt {
    head_length: f32,
    head_half: f32,
    shank_half: f32,
    thread_start: f32,
    pitch: f32,
}

impl Bolt {
    pub fn random(rng: &mut impl Rng) -> Self {
        let head_half = rng.random_range(0.16..0.23);
        let head_length = head_half * rng.random_range(0.7..0.85);
        Self {
            head_length,
            head_half,
            shank_half: head_half * rng.random_range(0.5..0.62),
            thread_start: rng.random_range(-0.5 + head_length..0.05),
            pitch: rng.random_range(0.036..0.052),
        }
    }
}

impl Shape for Bolt {
    fn radius(&self) -> f32 {
        0.56
    }

    fn surface(&self, point: Vec2, pixel: f32) -> Surface {
        let neck = -0.5 + self.head_length;
        let head_centre = Vec2::new(-0.5 + self.head_length / 2.0, 0.0);
        // The outer corners of the head are turned off, the inner ones are sharp.
        let cut = ((point.y.abs() - self.head_half * 0.8) - (point.x + 0.5)).max(-1.0) * 0.7;
        let head = rounded_box(point - head_centre, Vec2::new(self.head_length / 2.0, self.head_half), 0.008).max(cut);

        let chamfer = (point.x - 0.47).max(0.0);
        let threaded = if point.x > self.thread_start { resolvable(self.pitch, pixel) } else { 0.0 };
        let thread = threaded * triangle_wave((point.x + 0.25 * self.pitch * point.y / self.shank_half) / self.pitch);
        let half = self.shank_half - chamfer + 0.012 * thread;
        let shank = (point.y.abs() - half).max(point.x - 0.5).max(neck - point.x - 0.01);

        let facets = 0.87 * self.head_half - (point.y.abs() - self.head_half / 2.0).max(0.0) * 1.73;
        if head <= 0.0 {
            return Surface::new(head, facets.min(0.03 - head * 3.0));
        }
        let mut surface = Surface::new(head.min(shank), cylinder(point.y, self.shank_half) + 0.008 * thread);
        surface.tone = 1.0 - 0.28 * threaded * (0.5 - 0.5 * thread);
        surface
    }
}

/// A wood screw on its side: countersunk or domed head, a coarse thread and a sharp point.
pub struct Screw {
    head_half: f32,
    head_length: f32,
    domed: bool,
    shank_half: f32,
    pitch: f32,
}

impl Screw {
    pub fn random(rng: &mut impl Rng) -> Self {
        let domed = rng.random_bool(0.3);
        Self {
            head_half: rng.random_range(0.12..0.155),
            head_length: if domed { 0.09 } else { rng.random_range(0.11..0.14) },
            domed,
            shank_half: rng.random_range(0.048..0.06),
            pitch: rng.random_range(0.055..0.075),
        }
    }
}

impl Shape for Screw {
    fn radius(&self) -> f32 {
        0.53
    }

    fn surface(&self, point: Vec2, pixel: f32) -> Surface {
        let along = point.x + 0.5;
        let progress = along / self.head_length;
        let head_half = if self.domed {
            self.head_half * (progress.clamp(0.0, 1.0) * (2.0 - progress.clamp(0.0, 1.0))).sqrt()
        } else {
            // A short cylindrical rim, then the cone down to the shank.
            self.head_half + (self.shank_half - self.head_half) * ((progress - 0.18) / 0.82).clamp(0.0, 1.0)
        };
        let head = ((point.y.abs() - head_half) * 0.75).max(-along).max(along - self.head_length);

        let tip = ((0.5 - point.x) / 0.2).clamp(0.0, 1.0);
        let threaded = if along > self.head_length + 0.08 { resolvable(self.pitch, pixel) } else { 0.0 };
        let thread = threaded * triangle_wave((point.x + 0.4 * self.pitch * point.y / self.shank_half) / self.pitch);
        let half = (self.shank_half + 0.018 * thread) * tip.powf(0.8);
        let shank = ((point.y.abs() - half) * 0.9).max(point.x - 0.5).max(self.head_length - along - 0.01);

        if head <= 0.0 {
            return Surface::new(head, cylinder(point.y, head_half));
        }
        let mut surface = Surface::new(head.min(shank), cylinder(point.y, half) + 0.008 * thread);
        surface.tone = 1.0 - 0.35 * threaded * (0.5 - 0.5 * thread);
        surface
    }
}

/// A hexagonal nut from above, its bore threaded.
pub struct Nut {
    bore: f32,
    chamfer: f32,
}

impl Nut {
    pub fn random(rng: &mut impl Rng) -> Self {
        Self { bore: rng.random_range(0.22..0.28), chamfer: rng.random_range(0.41..0.435) }
    }
}

impl Shape for Nut {
    fn radius(&self) -> f32 {
        0.53
    }

    fn surface(&self, point: Vec2, pixel: f32) -> Surface {
        let centre_distance = point.length();
        let outline = polygon(point, 6, 0.433);
        let bore = self.bore - centre_distance;
        let distance = outline.max(bore);
        // The corners fall away outside the chamfer circle; the bore has a countersink with turns of thread.
        let corner = (centre_distance - self.chamfer).max(0.0) * 0.9;
        let countersink = (self.bore + 0.06 - centre_distance).max(0.0);
        let turns = resolvable(0.03, pixel) * triangle_wave(countersink / 0.03);
        let mut surface = Surface::new(distance, bevel(outline, 0.025, 0.05) - corner - countersink * 1.3 + 0.2);
        if countersink > 0.0 {
            surface.tone = 0.62 + 0.12 * turns;
        }
        surface
    }
}

/// A flat washer from above.
pub struct Washer {
    bore: f32,
    worn: f32,
}

impl Washer {
    pub fn random(rng: &mut impl Rng) -> Self {
        Self { bore: rng.random_range(0.17..0.30), worn: rng.random_range(0.0..0.06) }
    }
}

impl Shape for Washer {
    fn radius(&self) -> f32 {
        0.52
    }

    fn surface(&self, point: Vec2, pixel: f32) -> Surface {
        let centre_distance = point.length();
        let distance = (centre_distance - 0.5).max(self.bore - centre_distance);
        let rings = resolvable(0.05, pixel) * triangle_wave(centre_distance / 0.05);
        let mut surface = Surface::new(distance, bevel(distance, 0.035, 0.045));
        // Turned metal: two bright and two dark sectors.
        surface.tone = 1.0 + 0.16 * (2.0 * point.to_angle()).cos() + self.worn * rings;
        surface
    }
}
