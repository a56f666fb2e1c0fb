//! Gears, springs, wrenches and ball bearings.

use std::f32::consts::TAU;

use glam::Vec2;
use rand::Rng;

use crate::scenes::shape::{Shape, Surface, bevel, cylinder, polygon, rounded_box, segment, smoothstep, triangle_wave};

/// A spur gear from above, with a hub and perhaps holes in its web.
pub struct Gear {
    teeth: u32,
    depth: f32,
    bore: f32,
    hub: f32,
    holes: u32,
    hole: f32,
}

impl Gear {
    pub fn random(rng: &mut impl Rng) -> Self {
        let teeth = rng.random_range(10..=22);
        let bore = rng.random_range(0.06..0.11);
        Self {
            teeth,
            depth: 1.5 / (teeth as f32 + 3.0),
            bore,
            hub: bore + rng.random_range(0.05..0.08),
            holes: [0, 0, 4, 5, 6][rng.random_range(0..5)],
            hole: rng.random_range(0.04..0.06),
        }
    }
}

impl Shape for Gear {
    fn radius(&self) -> f32 {
        0.52
    }

    fn surface(&self, point: Vec2, _pixel: f32) -> Surface {
        let (centre_distance, angle) = (point.length(), point.to_angle());
        let tooth = (triangle_wave(angle * self.teeth as f32 / TAU) * 1.9).clamp(-1.0, 1.0);
        let rim = 0.5 - self.depth;
        let outline = (centre_distance - (0.5 - self.depth / 2.0 + self.depth / 2.0 * tooth)) * 0.75;
        let mut distance = outline.max(self.bore - centre_distance);
        if self.holes > 0 {
            let sector = TAU / self.holes as f32;
            let folded = Vec2::from_angle((angle + sector / 2.0).rem_euclid(sector) - sector / 2.0) * centre_distance;
            let ring = (self.hub + rim - 0.05) / 2.0;
            distance = distance.max(self.hole - (folded - Vec2::new(ring, 0.0)).length());
        }
        let web = smoothstep(self.hub, self.hub + 0.02, centre_distance)
            * (1.0 - smoothstep(rim - 0.07, rim - 0.05, centre_distance));
        let mut surface = Surface::new(distance, bevel(distance, 0.025, 0.05) - 0.03 * web + 0.1);
        surface.tone = 1.0 - 0.22 * web + 0.08 * (2.0 * angle).cos();
        surface
    }
}

/// A compression spring on its side.
pub struct Spring {
    half: f32,
    wire: f32,
    pitch: f32,
    end: f32,
}

impl Spring {
    pub fn random(rng: &mut impl Rng) -> Self {
        let half = rng.random_range(0.11..0.18);
        let wire = rng.random_range(0.016..0.024);
        let turns = rng.random_range(6..=10) as f32;
        let end = 0.5 - wire;
        Self { half: half - wire, wire, pitch: 2.0 * end / turns, end }
    }

    /// Distance to the nearest of the strands that go from `-half` at `x` to `half` at `x + run`.
    fn strands(&self, point: Vec2, first: f32, run: f32) -> f32 {
        let turn = ((point.x - first - run / 2.0) / self.pitch).round();
        [turn - 1.0, turn, turn + 1.0]
            .into_iter()
            .filter_map(|turn| {
                let (from, to) = (first + turn * self.pitch, first + turn * self.pitch + run);
                let inside = from.min(to) > -self.end - 0.01 && from.max(to) < self.end + 0.01;
                inside.then(|| segment(point, Vec2::new(from, -self.half), Vec2::new(to, self.half)))
            })
            .fold(1.0, f32::min)
    }
}

impl Shape for Spring {
    fn radius(&self) -> f32 {
        0.55
    }

    fn surface(&self, point: Vec2, _pixel: f32) -> Surface {
        let front = self.strands(point, -self.end, self.pitch / 2.0);
        let back = self.strands(point, -self.end + self.pitch, -self.pitch / 2.0);
        let closing = [-self.end, self.end]
            .map(|x| segment(point, Vec2::new(x, -self.half), Vec2::new(x, self.half)))
            .into_iter()
            .fold(1.0, f32::min);
        let front = front.min(closing);
        // The front strands arch over the back ones.
        let arch = cylinder(point.y, self.half + self.wire) * 0.6;
        if front <= self.wire {
            Surface::new(front - self.wire, cylinder(front, self.wire) * 1.4 + arch)
        } else {
            let mut surface = Surface::new(front.min(back) - self.wire, cylinder(back, self.wire) * 1.4);
            surface.tone = 0.55;
            surface
        }
    }
}

/// A spanner: an open jaw at one end, a ring or a second jaw at the other.
pub struct Wrench {
    jaw: f32,
    second_jaw: bool,
    second: f32,
    handle: f32,
    slot: f32,
    tilt: Vec2,
    inset: f32,
}

impl Wrench {
    pub fn random(rng: &mut impl Rng) -> Self {
        let jaw = rng.random_range(0.10..0.13);
        let angle: f32 = rng.random_range(0.1..0.35);
        Self {
            jaw,
            second_jaw: rng.random_bool(0.3),
            second: jaw * rng.random_range(0.75..0.9),
            handle: rng.random_range(0.036..0.05),
            slot: jaw * rng.random_range(0.42..0.52),
            tilt: Vec2::from_angle(if rng.random_bool(0.5) { angle } else { -angle }),
            inset: if rng.random_bool(0.7) { rng.random_range(0.16..0.24) } else { 0.0 },
        }
    }

    /// A round jaw at the origin, opening towards positive x.
    fn open_end(&self, point: Vec2, radius: f32) -> f32 {
        let turned = self.tilt.rotate(point);
        let half_slot = self.slot * radius / self.jaw;
        let slot = rounded_box(turned - Vec2::new(radius * 0.9, 0.0), Vec2::new(radius, half_slot), half_slot * 0.5);
        (point.length() - radius).max(-slot)
    }
}

impl Shape for Wrench {
    fn radius(&self) -> f32 {
        0.53
    }

    fn surface(&self, point: Vec2, _pixel: f32) -> Surface {
        let first = self.open_end(point - Vec2::new(0.5 - self.jaw, 0.0), self.jaw);
        let far = point + Vec2::new(0.5 - self.second, 0.0);
        let second = if self.second_jaw {
            self.open_end(-far, self.second)
        } else {
            (far.length() - self.second).max(-polygon(far, 12, self.second * 0.6))
        };
        let (left, right) = (-0.5 + 1.8 * self.second, 0.5 - 1.75 * self.jaw);
        let centre = Vec2::new((left + right) / 2.0, 0.0);
        let flare = 0.03 * smoothstep(0.12, 0.32, point.x.abs());
        let handle = rounded_box(point - centre, Vec2::new((right - left) / 2.0, self.handle + flare), 0.01);
        let distance = first.min(second).min(handle);
        let inset = if self.inset > 0.0 {
            rounded_box(point, Vec2::new(self.inset, self.handle * 0.55), self.handle * 0.5)
        } else {
            1.0
        };
        let mut surface = Surface::new(distance, bevel(distance, 0.03, 0.05) - bevel(inset, 0.012, 0.014) + 0.05);
        surface.accent = smoothstep(0.004, -0.004, inset);
        surface
    }
}

/// A ball bearing from above, open or sealed with a coloured shield.
pub struct Bearing {
    outer_race: f32,
    inner_race: f32,
    bore: f32,
    balls: u32,
    sealed: bool,
}

impl Bearing {
    pub fn random(rng: &mut impl Rng) -> Self {
        let bore = rng.random_range(0.15..0.21);
        Self {
            outer_race: rng.random_range(0.39..0.42),
            inner_race: bore + rng.random_range(0.06..0.08),
            bore,
            balls: rng.random_range(7..=10),
            sealed: rng.random_bool(0.35),
        }
    }
}

impl Shape for Bearing {
    fn radius(&self) -> f32 {
        0.52
    }

    fn surface(&self, point: Vec2, _pixel: f32) -> Surface {
        let (centre_distance, angle) = (point.length(), point.to_angle());
        let distance = (centre_distance - 0.5).max(self.bore - centre_distance);
        let middle = (self.outer_race + self.inner_race) / 2.0;
        let groove = (centre_distance - middle).abs() - (self.outer_race - self.inner_race) / 2.0;
        let rings = bevel(distance.max(-groove), 0.03, 0.05) + 0.1;
        if groove > 0.0 {
            let mut surface = Surface::new(distance, rings);
            surface.tone = 1.0 + 0.14 * (2.0 * angle).cos();
            return surface;
        }
        if self.sealed {
            let mut surface = Surface::new(distance, bevel(groove, 0.03, 0.025) + 0.08);
            surface.accent = 1.0;
            return surface;
        }
        let sector = TAU / self.balls as f32;
        let folded = Vec2::from_angle((angle + sector / 2.0).rem_euclid(sector) - sector / 2.0) * centre_distance;
        let ball = ((self.outer_race - self.inner_race) * 0.52).min(middle * sector * 0.45);
        let offset = (folded - Vec2::new(middle, 0.0)).length();
        let mut surface = Surface::new(distance, cylinder(offset, ball) + 0.02);
        surface.tone = if offset < ball { 1.05 } else { 0.22 };
        surface
    }
}
