use glam::Vec3;

use super::*;

fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A disc, whose pixels can be counted by hand.
struct Disc;

impl Shape for Disc {
    fn radius(&self) -> f32 {
        0.5
    }

    fn surface(&self, point: Vec2, _pixel: f32) -> shape::Surface {
        shape::Surface::new(point.length() - 0.5, 0.0)
    }
}

fn draw_disc(canvas: &mut Canvas, diameter: f32, centre: (i32, i32), number: u8) -> u32 {
    let material = Material::matt([200; 3]);
    let tile = Tile::new(&Disc, diameter, 0.0, false, Vec2::ZERO, 4.0);
    let paint = Paint { material: &material, accent: &material, lift: 1.0, seed: 1 };
    canvas.draw(&tile, IVec2::new(centre.0, centre.1), &paint, &Light::random(&mut generator(1)), number);
    tile.area()
}

fn empty_canvas() -> Canvas {
    Canvas::new(100, 80, |_, _| Vec3::splat(0.2))
}

#[test]
fn a_scene_depends_on_its_seed_alone() {
    let (first, again, other) = (render(5, 120, 90), render(5, 120, 90), render(6, 120, 90));
    assert_eq!((first.image.width(), first.image.height()), (120, 90));
    assert_eq!((&first.image, &first.boxes), (&again.image, &again.boxes));
    assert_ne!(first.image, other.image);
}

#[test]
fn labels_lie_in_the_picture_and_every_class_is_drawn() {
    let mut per_class = [0; CLASSES.len()];
    for seed in 0..80 {
        let sample = render(seed, 160, 128);
        assert!(sample.boxes.len() <= 9, "scene {seed} has {} objects", sample.boxes.len());
        for LabelledBox { class_id, bbox } in sample.boxes {
            per_class[class_id as usize] += 1;
            assert!(bbox.is_valid() && bbox.x1 >= 0.0 && bbox.y1 >= 0.0, "scene {seed}: {bbox:?}");
            assert!(bbox.x2 <= 160.0 && bbox.y2 <= 128.0, "scene {seed}: {bbox:?}");
            assert!(bbox.width() >= 2.5 && bbox.height() >= 2.5, "scene {seed}: {bbox:?}");
        }
    }
    assert!(per_class.iter().all(|count| *count >= 15), "{per_class:?}");
}

#[test]
fn the_box_is_the_tight_box_of_the_drawn_pixels() {
    let mut canvas = empty_canvas();
    let area = draw_disc(&mut canvas, 21.0, (50, 40), 1);
    let (visible, bbox) = canvas.visible(1);
    // Pixel middles up to 10.5 from (50, 40) are inside: columns 40 to 60.
    assert_eq!(bbox, detectd_vision::BoundingBox::new(40.0, 30.0, 61.0, 51.0));
    assert_eq!(visible, area);
    assert!((area as f32 - std::f32::consts::PI * 10.5 * 10.5).abs() < 12.0, "{area}");
}

#[test]
fn what_is_hidden_or_beyond_the_edge_does_not_count_as_visible() {
    let mut canvas = empty_canvas();
    let area = draw_disc(&mut canvas, 21.0, (0, 40), 1);
    let (visible, bbox) = canvas.visible(1);
    assert_eq!((bbox.x1, bbox.x2), (0.0, 11.0));
    assert!(visible * 2 > area && visible * 2 < area + 22, "{visible} of {area}");

    let tile = Tile::new(&Disc, 41.0, 0.0, false, Vec2::ZERO, 0.0);
    assert_eq!(canvas.hidden_by(&tile, IVec2::new(0, 40))[1], visible);
    draw_disc(&mut canvas, 41.0, (0, 40), 2);
    assert_eq!(canvas.visible(1).0, 0);
    assert_eq!(canvas.visible(3).0, 0);
}

#[test]
fn parts_stay_within_their_radius_and_have_a_body() {
    for class_id in 0..CLASSES.len() as u32 {
        for seed in 0..40 {
            let part = parts::part(class_id, &mut generator(seed));
            let outside = (0..360).map(|degree| Vec2::from_angle((degree as f32).to_radians()) * part.radius());
            for point in outside {
                let distance = part.surface(point, 0.005).distance;
                assert!(distance > -0.004, "{} {seed}: {distance} at {point}", CLASSES[class_id as usize]);
            }
            let tile = Tile::new(&*part, 100.0, 0.3, false, Vec2::ZERO, 0.0);
            assert!(tile.area() > 500, "{} {seed}: {} pixels", CLASSES[class_id as usize], tile.area());
        }
    }
}

#[test]
fn tiny_pictures_are_raised_to_the_smallest_side() {
    let sample = render(1, 0, 1);
    assert_eq!((sample.image.width(), sample.image.height()), (32, 32));
}
