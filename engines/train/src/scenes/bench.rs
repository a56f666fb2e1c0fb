//! What the parts lie on: wood, brushed steel, a cutting mat, concrete, cloth, cardboard, laminate.

use std::f32::consts::TAU;

use glam::{Vec2, Vec3};
use rand::Rng;

use super::light::linear;
use super::noise::{fractal, hash, unit, value};
use super::shape::smoothstep;

enum Kind {
    Wood { plank: f32 },
    Steel,
    Mat { fine: f32 },
    Concrete,
    Cloth { thread: f32 },
    Cardboard,
    Laminate,
}

/// A texture that covers the whole picture.
pub struct Bench {
    kind: Kind,
    colour: Vec3,
    turn: Vec2,
    origin: Vec2,
    seed: u32,
}

impl Bench {
    /// A bench of a random kind, colour and direction.
    pub fn random(rng: &mut impl Rng) -> Self {
        let (kind, palette): (Kind, &[[u8; 3]]) = match rng.random_range(0..7) {
            0 => (
                Kind::Wood { plank: rng.random_range(0.3..0.7) },
                &[[188, 142, 92], [150, 102, 62], [206, 172, 124], [112, 78, 54], [168, 128, 96]],
            ),
            1 => (Kind::Steel, &[[150, 154, 160], [128, 132, 136], [172, 172, 170]]),
            2 => (
                Kind::Mat { fine: rng.random_range(0.03..0.055) },
                &[[34, 92, 74], [36, 66, 110], [62, 66, 70], [104, 44, 70], [30, 34, 38]],
            ),
            3 => (Kind::Concrete, &[[150, 148, 142], [120, 120, 118], [172, 166, 156]]),
            4 => (
                Kind::Cloth { thread: rng.random_range(0.012..0.02) },
                &[[60, 84, 128], [146, 60, 48], [186, 180, 166], [70, 76, 66]],
            ),
            5 => (Kind::Cardboard, &[[176, 140, 100], [160, 122, 84]]),
            _ => (Kind::Laminate, &[[204, 204, 198], [78, 96, 92], [134, 150, 164], [70, 72, 80], [190, 176, 150]]),
        };
        Self {
            kind,
            colour: linear(palette[rng.random_range(0..palette.len())]) * rng.random_range(0.8..1.15),
            turn: Vec2::from_angle(rng.random_range(0.0..TAU)),
            origin: Vec2::new(rng.random_range(-50.0..50.0), rng.random_range(-50.0..50.0)),
            seed: rng.random(),
        }
    }

    /// Colour at `point`, in units of the picture's shorter side; a pixel is `pixel` wide.
    pub fn colour(&self, point: Vec2, pixel: f32) -> Vec3 {
        let Vec2 { x, y } = self.turn.rotate(point) + self.origin;
        match self.kind {
            Kind::Wood { plank } => self.wood(x, y, plank),
            Kind::Steel => {
                let streak = value(x * 4.0, y * 260.0, self.seed) * 0.6 + value(x * 1.5, y * 90.0, self.seed) * 0.4;
                let sheen = value(x * 0.8, y * 1.6, self.seed ^ 5);
                self.colour * (0.62 + 0.36 * streak + 0.4 * sheen)
            }
            Kind::Mat { fine } => self.mat(x, y, fine, pixel),
            Kind::Concrete => {
                let grain = fractal(x * 9.0, y * 9.0, 4, self.seed);
                let pit = smoothstep(0.80, 0.9, value(x * 70.0, y * 70.0, self.seed ^ 9));
                self.colour * (0.6 + 0.8 * grain) * (1.0 - 0.4 * pit)
            }
            Kind::Cloth { thread } => {
                let (u, v) = (x / thread, y / thread);
                let over = (u.floor() as i32 + v.floor() as i32).rem_euclid(2) == 0;
                let across = if over { u } else { v };
                let round = 1.0 - (2.0 * (across - across.floor()) - 1.0).powi(2);
                let fold = value(x * 3.0, y * 3.0, self.seed);
                self.colour * (0.55 + 0.35 * round + 0.1 * f32::from(u8::from(over))) * (0.7 + 0.6 * fold)
            }
            Kind::Cardboard => {
                let flute = (y * 150.0).sin() * 0.03;
                let fibre = value(x * 60.0, y * 180.0, self.seed) * 0.16;
                self.colour * (0.8 + flute + fibre + 0.2 * value(x * 4.0, y * 4.0, self.seed ^ 3))
            }
            Kind::Laminate => {
                let speck = unit((x * 150.0).floor() as i32, (y * 150.0).floor() as i32, self.seed);
                let dot = if speck > 0.96 { 0.72 } else { 1.0 };
                self.colour * dot * (0.9 + 0.2 * fractal(x * 3.0, y * 3.0, 2, self.seed))
            }
        }
    }

    fn wood(&self, x: f32, y: f32, plank: f32) -> Vec3 {
        let board = (y / plank).floor();
        let board_seed = hash(board as i32, 0, self.seed);
        let shift = unit(board as i32, 1, self.seed) * 40.0;
        let warp = value(x * 1.1 + shift, y * 3.0, board_seed) * 2.6;
        let rings = 0.5 + 0.5 * ((y * 9.0 / plank + warp * 2.0) * 2.2).sin();
        let fibre = value(x * 9.0 + shift, y * 150.0, board_seed ^ 11);
        let tint = 0.82 + 0.36 * unit(board as i32, 2, self.seed);
        let seam_distance = (y / plank - board).min(board + 1.0 - y / plank) * plank;
        let seam = 1.0 - 0.75 * smoothstep(0.006, 0.001, seam_distance);
        let dark = 0.55 + 0.3 * rings + 0.32 * fibre;
        let red_in_the_grain = Vec3::new(1.0, 0.94 + 0.06 * rings, 0.86 + 0.14 * rings);
        self.colour * red_in_the_grain * dark * tint * seam
    }

    fn mat(&self, x: f32, y: f32, fine: f32, pixel: f32) -> Vec3 {
        let line = |position: f32, step: f32| {
            let offset = (position / step - (position / step).round()).abs() * step;
            smoothstep(1.1 * pixel, 0.3 * pixel, offset)
        };
        let minor = line(x, fine).max(line(y, fine)) * 0.12;
        let major = line(x, fine * 5.0).max(line(y, fine * 5.0)) * 0.5;
        let grain = value(x * 160.0, y * 160.0, self.seed) * 0.12;
        let wear = fractal(x * 5.0, y * 5.0, 3, self.seed ^ 7) * 0.3;
        let ground = self.colour * (0.78 + grain + wear);
        ground.lerp(Vec3::splat(0.5) + self.colour * 0.5, minor.max(major))
    }
}
