//! Materials, the lamp over the bench, and how the one looks under the other. Colours are linear RGB.

use glam::{Vec2, Vec3};
use rand::Rng;

use super::shape::smoothstep;

/// What a part is made of.
#[derive(Clone, Copy, Debug)]
pub struct Material {
    /// Colour in diffuse light.
    pub colour: Vec3,
    /// 0 for paint, paper and wood, 1 for bare metal, which mirrors the room.
    pub metal: f32,
    /// Blinn-Phong exponent: how small the highlight is.
    pub gloss: f32,
    /// Strength of blotches and wear in `[0, 1]`.
    pub wear: f32,
}

impl Material {
    /// A matt material of one colour, given as sRGB bytes.
    pub fn matt(rgb: [u8; 3]) -> Self {
        Self { colour: linear(rgb), metal: 0.0, gloss: 12.0, wear: 0.06 }
    }

    /// Bare steel, plated or blackened.
    pub fn random_steel(rng: &mut impl Rng) -> Self {
        const STEELS: [([u8; 3], f32); 5] = [
            ([196, 198, 202], 0.9),
            ([178, 182, 190], 1.0),
            ([210, 212, 214], 1.0),
            ([188, 180, 168], 0.8),
            ([72, 72, 78], 0.7),
        ];
        Self::metal(STEELS[rng.random_range(0..STEELS.len())], rng)
    }

    /// Brass, yellow zinc or copper.
    pub fn random_coloured_metal(rng: &mut impl Rng) -> Self {
        const METALS: [([u8; 3], f32); 4] =
            [([204, 172, 104], 1.0), ([198, 178, 130], 0.9), ([212, 190, 112], 1.0), ([196, 138, 108], 1.0)];
        Self::metal(METALS[rng.random_range(0..METALS.len())], rng)
    }

    fn metal((rgb, metal): ([u8; 3], f32), rng: &mut impl Rng) -> Self {
        Self {
            colour: linear(rgb) * rng.random_range(0.85..1.1),
            metal,
            gloss: rng.random_range(12.0..60.0),
            wear: rng.random_range(0.03..0.22),
        }
    }

    /// Bright paint or plastic.
    pub fn random_paint(rng: &mut impl Rng) -> Self {
        const PAINTS: [[u8; 3]; 8] = [
            [176, 38, 34],
            [32, 74, 150],
            [34, 34, 38],
            [226, 172, 36],
            [40, 116, 70],
            [210, 96, 30],
            [92, 98, 106],
            [190, 190, 184],
        ];
        let rgb = PAINTS[rng.random_range(0..PAINTS.len())];
        Self { colour: linear(rgb), metal: 0.0, gloss: rng.random_range(10.0..50.0), wear: 0.05 }
    }
}

/// The lamp: one direction for shading and shadows, the same for the whole scene.
#[derive(Clone, Copy, Debug)]
pub struct Light {
    /// Unit vector to the lamp; z points at the viewer.
    direction: Vec3,
    half: Vec3,
    /// Light from everywhere.
    ambient: f32,
    /// How dark shadows are.
    pub shadow: f32,
    /// How soft the shadow's edge is, relative to its length.
    pub softness: f32,
}

impl Light {
    /// A lamp somewhere above the bench.
    pub fn random(rng: &mut impl Rng) -> Self {
        let around = Vec2::from_angle(rng.random_range(0.0..std::f32::consts::TAU));
        let elevation: f32 = rng.random_range(0.6..1.15);
        let direction = (around * elevation.cos()).extend(elevation.sin());
        Self {
            direction,
            half: (direction + Vec3::Z).normalize(),
            ambient: rng.random_range(0.3..0.5),
            shadow: rng.random_range(0.3..0.68),
            softness: rng.random_range(0.4..1.4),
        }
    }

    /// Where the shadow of a point one unit above the bench falls.
    pub fn shadow_offset(&self) -> Vec2 {
        -self.direction.truncate() / self.direction.z
    }

    /// Colour of `material` where the height changes by `slope` per unit length and `albedo` scales its colour.
    pub fn shade(&self, material: &Material, slope: Vec2, albedo: f32) -> Vec3 {
        let normal = (-slope).extend(1.0).normalize();
        let diffuse = normal.dot(self.direction).max(0.0);
        let colour = material.colour * albedo;
        let matt = colour * (self.ambient + (1.25 - self.ambient) * diffuse);
        let highlight = normal.dot(self.half).max(0.0).powf(material.gloss);
        // The room a metal mirrors: a bright ceiling towards the lamp and dark walls, with a horizon between.
        let mirrored = normal * (2.0 * normal.z) - Vec3::Z;
        let towards = mirrored.dot(self.direction);
        let room = 0.18 + 0.55 * smoothstep(-0.1, 0.75, towards) + 0.5 * smoothstep(0.82, 0.98, towards);
        let metal = colour * (0.35 * self.ambient + 0.3 * diffuse + 0.85 * room);
        let tint = Vec3::ONE.lerp(material.colour, 0.5 * material.metal);
        matt.lerp(metal, material.metal) + tint * (highlight * (0.12 + 0.5 * material.metal))
    }
}

/// Linear light from sRGB bytes, with the gamma curve taken as a square.
pub fn linear(rgb: [u8; 3]) -> Vec3 {
    let colour = Vec3::from(rgb.map(f32::from)) / 255.0;
    colour * colour
}
