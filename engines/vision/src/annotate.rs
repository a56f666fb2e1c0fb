//! Draws detections into a picture: a box in its class's colour and a tag with label and score.

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};

use crate::{Detection, Image};

/// Draws `detections` into `image`, those with the best scores on top. Line width and text size follow the picture's
/// size. A class without an entry in `labels` is written as its number; boxes that are not valid are left out.
///
/// Text is set in DejaVu Sans Bold.
pub fn annotate(image: &mut Image, detections: &[Detection], labels: &[String]) {
    let style = Style::new(image);
    let mut canvas = Canvas { width: image.width() as i32, height: image.height() as i32, pixels: image.pixels_mut() };
    let mut order: Vec<&Detection> = detections.iter().filter(|found| found.bbox.is_valid()).collect();
    order.sort_by(|a, b| a.score.total_cmp(&b.score));

    for found in &order {
        canvas.outline(&Rectangle::around(found, &canvas), style.line, colour_of(found.class_id));
    }
    // Tags come after all boxes so that no line runs through a word; the best ones choose their places first.
    let Ok(font) = FontRef::try_from_slice(dejavu::sans::bold()) else { return };
    let mut taken: Vec<Rectangle> = Vec::with_capacity(order.len());
    for found in order.iter().rev() {
        let name = labels.get(found.class_id as usize).map_or_else(|| found.class_id.to_string(), Clone::clone);
        let text = Text::set(&font, &format!("{name} {:.2}", found.score), style.text);
        let tag = place_tag(&Rectangle::around(found, &canvas), &text, &style, &canvas, &taken);
        let colour = colour_of(found.class_id);
        canvas.fill(&tag, colour);
        let ink = if luminance(colour) > 0.45 { [0; 3] } else { [255; 3] };
        canvas.write(&font, &text, (tag.left + style.padding, tag.top + style.padding), ink);
        taken.push(tag);
    }
}

/// A colour for a class, always the same one. Neighbouring classes are far apart in hue.
fn colour_of(class_id: u32) -> [u8; 3] {
    // The golden angle spreads any number of hues evenly; every second round of eight is darker.
    let hue = (f64::from(class_id) * 137.508 + 8.0) % 360.0 / 60.0;
    let (saturation, value) = if (class_id / 8).is_multiple_of(2) { (0.86, 1.0) } else { (0.75, 0.62) };
    let channel = |shift: f64| {
        let k = (shift + hue) % 6.0;
        let share = 1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0);
        (255.0 * value * share).round() as u8
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

fn luminance([red, green, blue]: [u8; 3]) -> f32 {
    (0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)) / 255.0
}

/// Sizes in pixels.
struct Style {
    line: i32,
    padding: i32,
    text: f32,
}

impl Style {
    fn new(image: &Image) -> Self {
        let side = image.width().min(image.height()) as f32;
        let line = (side / 240.0).round().max(1.0) as i32;
        Self { line, padding: line.max(2), text: (side * 0.032).max(14.0) }
    }
}

/// A rectangle of whole pixels; `right` and `bottom` are the first ones outside.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rectangle {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
}

impl Rectangle {
    /// The pixels a detection's box covers, cut at the canvas.
    fn around(found: &Detection, canvas: &Canvas<'_>) -> Self {
        let cut = |value: f32, limit: i32| (value.round() as i32).clamp(0, limit);
        let bbox = &found.bbox;
        Self {
            left: cut(bbox.x1, canvas.width),
            top: cut(bbox.y1, canvas.height),
            right: cut(bbox.x2, canvas.width),
            bottom: cut(bbox.y2, canvas.height),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }
}

/// Where a tag goes: above the box, below it, or inside at the top or bottom; the first place that lies on the canvas
/// and covers no other tag.
fn place_tag(around: &Rectangle, text: &Text, style: &Style, canvas: &Canvas<'_>, taken: &[Rectangle]) -> Rectangle {
    let (width, height) = (text.width + 2 * style.padding, text.height + 2 * style.padding);
    let left = around.left.min(canvas.width - width).max(0);
    let tops = [around.top - height, around.bottom, around.top, around.bottom - height];
    let places = tops.map(|top| Rectangle { left, top, right: left + width, bottom: top + height });
    let on_canvas = |place: &&Rectangle| place.top >= 0 && place.bottom <= canvas.height;
    let free = |place: &&Rectangle| !taken.iter().any(|other| other.overlaps(place));
    let chosen = places.iter().filter(on_canvas).find(free).or_else(|| places.iter().find(on_canvas));
    *chosen.unwrap_or(&places[2])
}

/// A line of text with its glyphs in place.
struct Text {
    glyphs: Vec<Glyph>,
    width: i32,
    height: i32,
}

impl Text {
    fn set(font: &FontRef<'_>, words: &str, size: f32) -> Self {
        /// Longer labels are cut: they would not fit into a picture anyway.
        const MAX_CHARACTERS: usize = 120;
        let scaled = font.as_scaled(PxScale::from(size));
        let (mut x, mut glyphs, mut previous) = (0.0, Vec::new(), None);
        for character in words.chars().filter(|character| !character.is_control()).take(MAX_CHARACTERS) {
            let id = scaled.glyph_id(character);
            x += previous.map_or(0.0, |previous| scaled.kern(previous, id));
            glyphs.push(id.with_scale_and_position(PxScale::from(size), point(x, scaled.ascent())));
            x += scaled.h_advance(id);
            previous = Some(id);
        }
        Self { glyphs, width: x.ceil() as i32, height: scaled.height().ceil() as i32 }
    }
}

struct Canvas<'a> {
    width: i32,
    height: i32,
    pixels: &'a mut [u8],
}

impl Canvas<'_> {
    fn fill(&mut self, area: &Rectangle, colour: [u8; 3]) {
        let (left, right) = (area.left.clamp(0, self.width), area.right.clamp(0, self.width));
        for row in area.top.clamp(0, self.height)..area.bottom.clamp(0, self.height) {
            let start = (row * self.width + left) as usize * 3;
            let bytes = (right - left).max(0) as usize * 3;
            self.pixels[start..start + bytes].as_chunks_mut::<3>().0.fill(colour);
        }
    }

    /// A frame of `line` pixels just inside `area`.
    fn outline(&mut self, area: &Rectangle, line: i32, colour: [u8; 3]) {
        let inner_top = (area.top + line).min(area.bottom);
        let inner_bottom = (area.bottom - line).max(area.top);
        self.fill(&Rectangle { bottom: inner_top, ..*area }, colour);
        self.fill(&Rectangle { top: inner_bottom, ..*area }, colour);
        self.fill(&Rectangle { right: (area.left + line).min(area.right), ..*area }, colour);
        self.fill(&Rectangle { left: (area.right - line).max(area.left), ..*area }, colour);
    }

    fn write(&mut self, font: &FontRef<'_>, text: &Text, (left, top): (i32, i32), colour: [u8; 3]) {
        for outline in text.glyphs.iter().filter_map(|glyph| font.outline_glyph(glyph.clone())) {
            let bounds = outline.px_bounds();
            let (x, y) = (left + bounds.min.x as i32, top + bounds.min.y as i32);
            outline.draw(|column, row, coverage| {
                let (column, row) = (x + column as i32, y + row as i32);
                if (0..self.width).contains(&column) && (0..self.height).contains(&row) {
                    let start = (row * self.width + column) as usize * 3;
                    for (byte, ink) in self.pixels[start..start + 3].iter_mut().zip(colour) {
                        let mixed = f32::from(*byte) + (f32::from(ink) - f32::from(*byte)) * coverage.clamp(0.0, 1.0);
                        *byte = mixed.round() as u8;
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoundingBox;

    fn found(class_id: u32, x1: f32, y1: f32, x2: f32, y2: f32) -> Detection {
        Detection { class_id, score: 0.5, bbox: BoundingBox::new(x1, y1, x2, y2) }
    }

    fn pixel(image: &Image, x: u32, y: u32) -> [u8; 3] {
        image.pixels().as_chunks::<3>().0[(y * image.width() + x) as usize]
    }

    #[test]
    fn draws_a_frame_and_leaves_the_inside_alone() {
        let mut image = Image::filled(240, 240, [9; 3]);
        annotate(&mut image, &[found(2, 60.0, 60.0, 160.0, 120.0)], &[]);
        let colour = colour_of(2);
        for (x, y) in [(60, 60), (159, 60), (60, 119), (159, 119), (60, 90), (110, 119)] {
            assert_eq!(pixel(&image, x, y), colour, "({x}, {y})");
        }
        for (x, y) in [(61, 61), (110, 90), (158, 118), (160, 90), (110, 120)] {
            assert_eq!(pixel(&image, x, y), [9; 3], "({x}, {y})");
        }
    }

    #[test]
    fn the_tag_is_written_above_the_box_in_two_colours() {
        let mut image = Image::filled(240, 240, [9; 3]);
        annotate(&mut image, &[found(0, 60.0, 60.0, 160.0, 120.0)], &["gear".to_owned()]);
        let above: Vec<[u8; 3]> = (60..130).map(|x| pixel(&image, x, 52)).collect();
        assert!(above.contains(&colour_of(0)), "no background");
        let ink = if luminance(colour_of(0)) > 0.45 { [0; 3] } else { [255; 3] };
        assert!((45..60).any(|y| (60..130).any(|x| pixel(&image, x, y) == ink)), "no letters");
    }

    #[test]
    fn tags_that_would_meet_are_moved_apart() {
        let image = &mut Image::filled(320, 320, [9; 3]);
        let style = Style::new(image);
        let canvas = Canvas { width: 320, height: 320, pixels: image.pixels_mut() };
        let text = Text { glyphs: Vec::new(), width: 60, height: 14 };
        let around = Rectangle { left: 100, top: 100, right: 180, bottom: 160 };
        let mut taken = Vec::new();
        for _ in 0..4 {
            let tag = place_tag(&around, &text, &style, &canvas, &taken);
            assert!(!taken.iter().any(|other: &Rectangle| other.overlaps(&tag)));
            taken.push(tag);
        }
        let corner = Rectangle { left: 300, top: 0, right: 320, bottom: 320 };
        let tag = place_tag(&corner, &text, &style, &canvas, &[]);
        assert!(tag.left >= 0 && tag.right <= 320 && tag.top >= 0 && tag.bottom <= 320, "{tag:?}");
    }

    #[test]
    fn any_detection_can_be_drawn_into_any_picture() {
        let odd = [0.0, -1e30, 1e30, -5.5, 7.0, 200.0, f32::NAN, f32::INFINITY];
        let labels = ["\u{0}\n".to_owned(), "x".repeat(5000), "ключ \u{1F527}".to_owned()];
        for (width, height) in [(1, 1), (3, 200), (200, 3), (64, 48)] {
            let mut image = Image::filled(width, height, [0; 3]);
            for x1 in odd {
                for y2 in odd {
                    let all =
                        [found(0, x1, x1, y2, y2), found(1, x1, 0.0, 30.0, y2), found(u32::MAX, 0.0, 0.0, 9.0, 9.0)];
                    annotate(&mut image, &all, &labels);
                }
            }
        }
    }

    #[test]
    fn the_first_sixteen_classes_can_be_told_apart() {
        for a in 0..16 {
            for b in 0..a {
                let distance: i32 =
                    colour_of(a).iter().zip(colour_of(b)).map(|(a, b)| (i32::from(*a) - i32::from(b)).abs()).sum();
                assert!(distance >= 60, "classes {a} and {b}: {:?} and {:?}", colour_of(a), colour_of(b));
            }
        }
    }
}
