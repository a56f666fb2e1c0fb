//! Repeatable noise: integer hashes and the value noise built on them, for textures and sensor noise.

/// A well-mixed 32-bit hash of a lattice point.
pub fn hash(x: i32, y: i32, seed: u32) -> u32 {
    let mut h = (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77) ^ seed;
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    h ^ (h >> 15)
}

/// The hash of a lattice point as a number in `[0, 1)`.
pub fn unit(x: i32, y: i32, seed: u32) -> f32 {
    (hash(x, y, seed) >> 8) as f32 / (1 << 24) as f32
}

/// Value noise in `[0, 1]`: random values at whole coordinates, smoothly interpolated between.
pub fn value(x: f32, y: f32, seed: u32) -> f32 {
    let (column, row) = (floor(x), floor(y));
    let (u, v) = (ease(x - column as f32), ease(y - row as f32));
    let top = lerp(unit(column, row, seed), unit(column + 1, row, seed), u);
    let bottom = lerp(unit(column, row + 1, seed), unit(column + 1, row + 1, seed), u);
    lerp(top, bottom, v)
}

/// Sum of `octaves` layers of value noise, each of double frequency and half amplitude, scaled to `[0, 1]`.
pub fn fractal(x: f32, y: f32, octaves: u32, seed: u32) -> f32 {
    let (mut sum, mut amplitude, mut total, mut frequency) = (0.0, 0.5, 0.0, 1.0);
    for octave in 0..octaves {
        sum += amplitude * value(x * frequency, y * frequency, seed.wrapping_add(octave * 7919));
        total += amplitude;
        amplitude *= 0.5;
        frequency *= 2.0;
    }
    sum / total
}

/// `f32::floor` is a call into the C library where the target lacks an instruction for it; this is not.
fn floor(x: f32) -> i32 {
    let truncated = x as i32;
    truncated - i32::from(truncated as f32 > x)
}

fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}
