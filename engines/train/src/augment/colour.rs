//! Random gains on hue, saturation and value.

use detectd_vision::Image;
use rand::Rng;

use super::Augmentation;

/// Factors on hue, saturation and value. Hue wraps around, the others are cut at full scale.
pub struct Gains {
    pub hue: f32,
    pub saturation: f32,
    pub value: f32,
}

impl Gains {
    /// `1 + U(-1, 1) · strength` each.
    pub fn random(augmentation: &Augmentation, rng: &mut impl Rng) -> Self {
        let mut gain = |strength: f32| 1.0 + strength * rng.random_range(-1.0..=1.0);
        Self { hue: gain(augmentation.hsv_h), saturation: gain(augmentation.hsv_s), value: gain(augmentation.hsv_v) }
    }

    /// Changes every pixel of `image`.
    pub fn apply(&self, image: &mut Image) {
        if (self.hue, self.saturation, self.value) == (1.0, 1.0, 1.0) {
            return;
        }
        let (pixels, _) = image.pixels_mut().as_chunks_mut::<3>();
        for pixel in pixels {
            *pixel = self.pixel(*pixel);
        }
    }

    /// One pixel by way of HSV: hue in sixths of a turn, saturation in `[0, 1]`, value in `[0, 255]`.
    pub fn pixel(&self, rgb: [u8; 3]) -> [u8; 3] {
        let [red, green, blue] = rgb.map(f32::from);
        let (value, low) = (red.max(green).max(blue), red.min(green).min(blue));
        let chroma = value - low;
        let new_value = (value * self.value).min(255.0);
        if chroma == 0.0 {
            return [(new_value + 0.5) as u8; 3];
        }
        let sixth = if value == red {
            let sixth = (green - blue) / chroma;
            if sixth < 0.0 { sixth + 6.0 } else { sixth }
        } else if value == green {
            (blue - red) / chroma + 2.0
        } else {
            (red - green) / chroma + 4.0
        };
        let mut sixth = sixth * self.hue;
        if sixth >= 6.0 {
            sixth -= 6.0;
        }
        let new_chroma = new_value * (chroma / value * self.saturation).min(1.0);
        let floor = new_value - new_chroma;
        // The three channels are the same trapezoid over hue, a third of a turn apart.
        let red = (sixth - 3.0).abs() - 1.0;
        let green = 2.0 - (sixth - 2.0).abs();
        let blue = 2.0 - (sixth - 4.0).abs();
        [red, green, blue].map(|share| (floor + new_chroma * share.clamp(0.0, 1.0) + 0.5) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Gains = Gains { hue: 1.0, saturation: 1.0, value: 1.0 };

    #[test]
    fn gains_of_one_change_no_pixel() {
        for red in (0..=255).step_by(5) {
            for green in (0..=255).step_by(3) {
                for blue in 0..=255 {
                    assert_eq!(SAME.pixel([red, green, blue]), [red, green, blue]);
                }
            }
        }
    }

    #[test]
    fn value_scales_and_stops_at_white() {
        assert_eq!(Gains { value: 0.5, ..SAME }.pixel([200, 100, 50]), [100, 50, 25]);
        assert_eq!(Gains { value: 1.4, ..SAME }.pixel([200, 200, 200]), [255; 3]);
    }

    #[test]
    fn saturation_moves_towards_and_away_from_grey() {
        assert_eq!(Gains { saturation: 0.0, ..SAME }.pixel([200, 100, 50]), [200; 3]);
        assert_eq!(Gains { saturation: 2.0, ..SAME }.pixel([200, 100, 100]), [200, 0, 0]);
    }

    #[test]
    fn hue_turns_by_the_gain() {
        // Yellow is at a sixth of a turn; doubled, it is green, tripled it is cyan.
        assert_eq!(Gains { hue: 2.0, ..SAME }.pixel([255, 255, 0]), [0, 255, 0]);
        assert_eq!(Gains { hue: 3.0, ..SAME }.pixel([255, 255, 0]), [0, 255, 255]);
        // Magenta at five sixths wraps around.
        assert_eq!(Gains { hue: 1.4, ..SAME }.pixel([255, 0, 255]), [255, 255, 0]);
    }
}
