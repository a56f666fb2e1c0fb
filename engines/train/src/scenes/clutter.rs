//! What else lies around: drawn, but never labelled.

use std::f32::consts::TAU;

use glam::{IVec2, Vec2, Vec3};
use rand::Rng;

use super::canvas::{BENCH, Canvas, Paint, Tile};
use super::light::{Light, Material, linear};
use super::noise;
use super::shape::{Shape, Surface, bevel, resolvable, rounded_box, segment, smoothstep};

/// A sharpened pencil.
pub struct Pencil;

impl Shape for Pencil {
    fn radius(&self) -> f32 {
        0.52
    }

    fn surface(&self, point: Vec2, _pixel: f32) -> Surface {
        let half = 0.026 * ((0.5 - point.x) / 0.1).clamp(0.0, 1.0);
        let distance = (point.y.abs() - half).max(point.x - 0.5).max(-0.5 - point.x);
        let facets = 0.022 - (point.y.abs() - 0.013).max(0.0) * 1.7;
        let mut surface = Surface::new(distance, facets.min(half));
        surface.accent = smoothstep(0.395, 0.405, point.x);
        if point.x > 0.465 {
            surface.tone = 0.12;
        }
        surface
    }
}

/// A hexagonal key: a long and a short leg.
pub struct HexKey;

impl Shape for HexKey {
    fn radius(&self) -> f32 {
        0.58
    }

    fn surface(&self, point: Vec2, _pixel: f32) -> Surface {
        let corner = Vec2::new(0.46, -0.1);
        let long = segment(point, Vec2::new(-0.48, -0.1), corner);
        let short = segment(point, corner, Vec2::new(0.46, 0.16));
        let axis = long.min(short);
        Surface::new(axis - 0.024, (0.024 - (axis - 0.012).max(0.0) * 1.7).max(0.0))
    }
}

/// A slip of paper with lines of writing.
pub struct Note {
    half: Vec2,
}

impl Shape for Note {
    fn radius(&self) -> f32 {
        self.half.length() + 0.01
    }

    fn surface(&self, point: Vec2, pixel: f32) -> Surface {
        let distance = rounded_box(point, self.half, 0.004);
        let line = (point.y / 0.09).round();
        let written = (point.y - line * 0.09).abs() < 0.012 && point.x.abs() < self.half.x - 0.08;
        let letters = noise::value(point.x * 60.0, line * 9.0, 77) > 0.42;
        let mut surface = Surface::new(distance, bevel(distance, 0.01, 0.003));
        if written && letters {
            surface.tone = 1.0 - 0.6 * resolvable(0.03, pixel);
        }
        surface
    }
}

/// A thing that lies among the parts, can hide them and be hidden, and is none of the classes.
pub fn stray(rng: &mut impl Rng) -> (Box<dyn Shape>, Material, Material, f32) {
    if rng.random_bool(0.5) {
        let wood = Material::matt([214, 176, 128]);
        (Box::new(Pencil), Material::random_paint(rng), wood, rng.random_range(0.4..0.7))
    } else {
        let metal = Material::random_steel(rng);
        (Box::new(HexKey), metal, metal, rng.random_range(0.25..0.45))
    }
}

/// Stains, paper, a cable, shavings and scratches: all of it under the parts.
pub fn scatter(canvas: &mut Canvas, light: &Light, rng: &mut impl Rng) {
    let side = canvas.width.min(canvas.height) as f32;
    for _ in 0..rng.random_range(0..3) {
        stain(canvas, side, rng);
    }
    if rng.random_bool(0.22) {
        let note = Note { half: Vec2::new(rng.random_range(0.3..0.5), rng.random_range(0.25..0.5)) };
        let length = side * rng.random_range(0.3..0.6);
        let tile = Tile::new(&note, length, rng.random_range(0.0..TAU), false, Vec2::ZERO, 4.0);
        let paper =
            Material { wear: 0.03, ..Material::matt([[232, 230, 222], [236, 222, 150]][rng.random_range(0..2)]) };
        put(canvas, &tile, &paper, 1.0, light, rng);
    }
    if rng.random_bool(0.25) {
        cable(canvas, side, light, rng);
    }
    for _ in 0..rng.random_range(0..4) {
        scratch(canvas, side, light, rng);
    }
    if rng.random_bool(0.35) {
        let metal = Material::random_steel(rng);
        for _ in 0..rng.random_range(3..14) {
            let length = side * rng.random_range(0.01..0.04);
            let curl = rng.random_range(-3.0..3.0);
            let points = arc(length, rng.random_range(0.0..TAU), curl);
            let tile = Tile::cord(&points, side * rng.random_range(0.0012..0.003), 3.0);
            put(canvas, &tile, &metal, 0.6, light, rng);
        }
    }
}

fn put(canvas: &mut Canvas, tile: &Tile, material: &Material, lift: f32, light: &Light, rng: &mut impl Rng) {
    let centre = IVec2::new(rng.random_range(0..canvas.width), rng.random_range(0..canvas.height));
    canvas.draw(tile, centre, &Paint { material, accent: material, lift, seed: rng.random() }, light, BENCH);
}

/// Points along a line of `length` that starts in direction `angle` and turns by `curl` in all, around its middle.
fn arc(length: f32, angle: f32, curl: f32) -> Vec<Vec2> {
    const STEPS: usize = 9;
    let mut points = vec![Vec2::ZERO];
    for step in 0..STEPS {
        let direction = Vec2::from_angle(angle + curl * step as f32 / STEPS as f32);
        points.push(points[step] + direction * (length / STEPS as f32));
    }
    let middle = points[STEPS / 2];
    points.into_iter().map(|point| point - middle).collect()
}

fn stain(canvas: &mut Canvas, side: f32, rng: &mut impl Rng) {
    let radius = side * rng.random_range(0.05..0.22);
    let centre = Vec2::new(rng.random_range(0.0..canvas.width as f32), rng.random_range(0.0..canvas.height as f32));
    let tint = linear([[60, 48, 36], [40, 40, 44], [120, 84, 50]][rng.random_range(0..3)]);
    let (strength, seed) = (rng.random_range(0.15..0.55), rng.random());
    let low = (centre - 1.5 * radius).max(Vec2::ZERO).as_ivec2();
    let high = (centre + 1.5 * radius).as_ivec2().min(IVec2::new(canvas.width, canvas.height));
    for row in low.y..high.y {
        for column in low.x..high.x {
            let point = (Vec2::new(column as f32, row as f32) - centre) / radius;
            let (u, v) = (point.x + 0.6 * point.y, point.y - 0.6 * point.x);
            let edge = 0.35 + 1.1 * noise::fractal(u * 1.3 + 9.0, v * 1.3, 4, seed);
            let share = strength * smoothstep(edge, edge - 0.25, point.length());
            let colour = &mut canvas.colours[(row * canvas.width + column) as usize];
            *colour = colour.lerp(*colour * tint.lerp(Vec3::ONE, 0.25), share);
        }
    }
}

fn cable(canvas: &mut Canvas, side: f32, light: &Light, rng: &mut impl Rng) {
    let mut direction: f32 = rng.random_range(0.0..TAU);
    let mut bend = 0.0;
    let mut points = vec![Vec2::from_angle(direction) * (-0.75 * side)];
    for step in 0..26 {
        bend = 0.7 * bend + rng.random_range(-0.16..0.16);
        direction += bend;
        points.push(points[step] + Vec2::from_angle(direction) * (0.06 * side));
    }
    let radius = side * rng.random_range(0.008..0.017);
    let tile = Tile::cord(&points, radius, radius * 2.0 + 3.0);
    let material = Material::random_paint(rng);
    let centre = IVec2::new(canvas.width, canvas.height) / 2
        + IVec2::new(rng.random_range(-1.0..1.0) as i32, (side * rng.random_range(-0.35..0.35)) as i32);
    canvas.draw(
        &tile,
        centre,
        &Paint { material: &material, accent: &material, lift: radius, seed: rng.random() },
        light,
        BENCH,
    );
}

fn scratch(canvas: &mut Canvas, side: f32, light: &Light, rng: &mut impl Rng) {
    let (length, angle, curl) =
        (side * rng.random_range(0.05..0.4), rng.random_range(0.0..TAU), rng.random_range(-0.3..0.3));
    let shade = rng.random_range(30..190);
    let tile = Tile::cord(&arc(length, angle, curl), side * rng.random_range(0.0006..0.0014), 3.0);
    put(canvas, &tile, &Material::matt([shade; 3]), 0.0, light, rng);
}
