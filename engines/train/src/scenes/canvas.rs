//! The picture being drawn: colours, and for each pixel which object is on top.

use detectd_vision::BoundingBox;
use glam::{IVec2, Vec2, Vec3};

use super::light::{Light, Material};
use super::noise;
use super::shape::{Shape, Surface, segment, smoothstep};

/// Nothing but the bench is visible at this pixel.
pub const BENCH: u8 = 0;

/// One object, evaluated at every pixel of a square around it. Distances and heights are in pixels.
pub struct Tile {
    side: i32,
    surfaces: Vec<Surface>,
}

impl Tile {
    /// `shape` turned by `angle`, mirrored if asked for, with its unit `length` pixels long and its origin `offset`
    /// pixels from the middle of the tile. `margin` pixels around it are left for its shadow.
    pub fn new(shape: &dyn Shape, length: f32, angle: f32, mirror: bool, offset: Vec2, margin: f32) -> Self {
        let half = (shape.radius() * length + margin).ceil() as i32 + 1;
        let side = 2 * half + 1;
        let (turn, pixel) = (Vec2::from_angle(-angle), 1.0 / length);
        let mut surfaces = Vec::with_capacity((side * side) as usize);
        let reach = shape.radius() * length + 1.0;
        for row in 0..side {
            for column in 0..side {
                let position = Vec2::new((column - half) as f32, (row - half) as f32) - offset;
                let from_outside = position.length() - reach;
                if from_outside > margin {
                    surfaces.push(Surface::new(from_outside, 0.0));
                    continue;
                }
                let mut point = turn.rotate(position) * pixel;
                if mirror {
                    point.y = -point.y;
                }
                let mut surface = shape.surface(point, pixel);
                surface.distance *= length;
                surface.height *= length;
                surfaces.push(surface);
            }
        }
        Self { side, surfaces }
    }

    /// A round cord of `radius` pixels through `points`, which are pixels from the middle of the tile.
    pub fn cord(points: &[Vec2], radius: f32, margin: f32) -> Self {
        let reach = points.iter().map(|point| point.abs().max_element()).fold(0.0, f32::max);
        let half = (reach + radius + margin).ceil() as i32 + 1;
        let side = 2 * half + 1;
        let far = radius + margin;
        let mut distances = vec![far; (side * side) as usize];
        for ends in points.windows(2) {
            let low = (ends[0].min(ends[1]) - far).floor().as_ivec2() + half;
            let high = (ends[0].max(ends[1]) + far).ceil().as_ivec2() + half;
            for row in low.y.max(0)..=high.y.min(side - 1) {
                for column in low.x.max(0)..=high.x.min(side - 1) {
                    let position = Vec2::new((column - half) as f32, (row - half) as f32);
                    let distance = &mut distances[(row * side + column) as usize];
                    *distance = distance.min(segment(position, ends[0], ends[1]));
                }
            }
        }
        let surfaces = distances
            .into_iter()
            .map(|distance| Surface::new(distance - radius, super::shape::cylinder(distance, radius)))
            .collect();
        Self { side, surfaces }
    }

    fn at(&self, position: IVec2) -> Option<&Surface> {
        let inside = position.min_element() >= 0 && position.max_element() < self.side;
        inside.then(|| &self.surfaces[(position.y * self.side + position.x) as usize])
    }

    /// Number of pixels the whole object has, on the canvas or off it.
    pub fn area(&self) -> u32 {
        self.surfaces.iter().filter(|surface| surface.distance <= 0.0).count() as u32
    }
}

/// How a tile is put on the canvas.
pub struct Paint<'a> {
    /// What it is made of.
    pub material: &'a Material,
    /// What its accents are made of.
    pub accent: &'a Material,
    /// How high it stands above the bench, in pixels: the length of its shadow at 45 degrees.
    pub lift: f32,
    /// Seed of its blotches.
    pub seed: u32,
}

/// Linear colours and, for each pixel, the number of the topmost object.
pub struct Canvas {
    pub width: i32,
    pub height: i32,
    pub colours: Vec<Vec3>,
    owners: Vec<u8>,
}

impl Canvas {
    /// A canvas with nothing on it but `background`, called with pixel coordinates.
    pub fn new(width: u32, height: u32, background: impl Fn(f32, f32) -> Vec3) -> Self {
        let mut colours = Vec::with_capacity((width * height) as usize);
        for row in 0..height {
            colours.extend((0..width).map(|column| background(column as f32, row as f32)));
        }
        let owners = vec![BENCH; colours.len()];
        Self { width: width as i32, height: height as i32, colours, owners }
    }

    /// For each number, how many pixels the object with that number would lose if `tile` were put at `centre`.
    pub fn hidden_by(&self, tile: &Tile, centre: IVec2) -> [u32; 256] {
        let mut hidden = [0; 256];
        self.each(tile, centre, |index, position| {
            if tile.surfaces[(position.y * tile.side + position.x) as usize].distance <= 0.0 {
                hidden[self.owners[index] as usize] += 1;
            }
        });
        hidden
    }

    /// Draws `tile` with its shadow on top of everything, its middle at `centre`. A number other than [`BENCH`] makes
    /// it the owner of its pixels.
    pub fn draw(&mut self, tile: &Tile, centre: IVec2, paint: &Paint, light: &Light, number: u8) {
        let fall = light.shadow_offset() * paint.lift;
        let blur = (fall.length() * light.softness * 0.5).max(0.7);
        let shift = fall.round().as_ivec2();
        let mut spots = Vec::new();
        self.each(tile, centre, |index, position| spots.push((index, position)));
        for (index, position) in spots {
            let surface = &tile.surfaces[(position.y * tile.side + position.x) as usize];
            let mut shadow = 0.5 * light.shadow * smoothstep(2.0, -1.0, surface.distance);
            if let Some(caster) = tile.at(position - shift) {
                shadow += light.shadow * smoothstep(blur, -blur, caster.distance);
            }
            let colour = &mut self.colours[index];
            *colour *= 1.0 - shadow.min(0.85);

            let cover = (0.5 - surface.distance).clamp(0.0, 1.0);
            if cover == 0.0 {
                continue;
            }
            let height = |x, y| tile.at(position + IVec2::new(x, y)).map_or(0.0, |surface| surface.height);
            let slope = Vec2::new(height(1, 0) - height(-1, 0), height(0, 1) - height(0, -1)) * 0.5;
            let own = |material: &Material| {
                let (x, y) = (position.x as f32, position.y as f32);
                let blotch = noise::value(x * 0.15, y * 0.15, paint.seed) + noise::value(x * 0.6, y * 0.6, paint.seed);
                light.shade(material, slope, surface.tone * (1.0 + material.wear * (blotch - 1.0)))
            };
            let shaded = match surface.accent {
                0.0 => own(paint.material),
                1.0 => own(paint.accent),
                share => own(paint.material).lerp(own(paint.accent), share),
            };
            *colour = colour.lerp(shaded, cover);
            if surface.distance <= 0.0 && number != BENCH {
                self.owners[index] = number;
            }
        }
    }

    /// For the object with `number`: its visible pixels and the box of them.
    pub fn visible(&self, number: u8) -> (u32, BoundingBox) {
        let (mut count, mut low, mut high) = (0, IVec2::MAX, IVec2::MIN);
        for (row, owners) in self.owners.chunks_exact(self.width as usize).enumerate() {
            for (column, _) in owners.iter().enumerate().filter(|(_, owner)| **owner == number) {
                let position = IVec2::new(column as i32, row as i32);
                count += 1;
                low = low.min(position);
                high = high.max(position);
            }
        }
        if count == 0 {
            return (0, BoundingBox::default());
        }
        let (low, high) = (low.as_vec2(), high.as_vec2() + 1.0);
        (count, BoundingBox::new(low.x, low.y, high.x, high.y))
    }

    /// Calls `visit(index of the pixel on the canvas, position in the tile)` where the two overlap.
    fn each(&self, tile: &Tile, centre: IVec2, mut visit: impl FnMut(usize, IVec2)) {
        let origin = centre - tile.side / 2;
        for y in 0.max(-origin.y)..tile.side.min(self.height - origin.y) {
            for x in 0.max(-origin.x)..tile.side.min(self.width - origin.x) {
                visit(((origin.y + y) * self.width + origin.x + x) as usize, IVec2::new(x, y));
            }
        }
    }
}
