//! Decoding of every kind of picture against what Pillow reads, and resizing against OpenCV. `images/make.py` made the
//! files.

use std::path::{Path, PathBuf};

use detectd_vision::{DecodeError, DecodeLimits, Filter, Format, Image, Preprocess, Resizer, decode, probe};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|cause| panic!("{name}: {cause}"))
}

/// The pictures of a format that are whole, by name.
fn pictures() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("tests/images");
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            entry.expect("readable folder").file_name().to_str()?.strip_suffix(".rgb").map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

/// Width, height and RGB pixels as Pillow reads them.
fn reference(name: &str) -> (u32, u32, Vec<u8>) {
    let data = bytes(&format!("{name}.rgb"));
    let end = data.iter().position(|byte| *byte == b'\n').expect("a first line");
    let line = std::str::from_utf8(&data[..end]).expect("text");
    let (width, height) = line.split_once(' ').expect("two numbers");
    (width.parse().expect("width"), height.parse().expect("height"), data[end + 1..].to_vec())
}

#[test]
fn every_kind_of_picture_is_read_as_pillow_reads_it() {
    let names = pictures();
    for (extension, least) in [("jpg", 15), ("png", 10), ("webp", 5), ("bmp", 4)] {
        let count = names.iter().filter(|name| name.ends_with(extension)).count();
        assert!(count >= least, "{count} pictures of {extension}");
    }
    for name in names {
        let (width, height, expected) = reference(&name);
        let data = bytes(&name);
        let info = probe(&data).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((info.width, info.height), (width, height), "{name}");
        let decoded =
            decode(&data, &DecodeLimits::default(), Vec::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(decoded.format, info.format, "{name}");
        assert_eq!((decoded.image.width(), decoded.image.height()), (width, height), "{name}");
        let differences: Vec<u32> =
            decoded.image.pixels().iter().zip(&expected).map(|(a, b)| u32::from(a.abs_diff(*b))).collect();
        let mean = f64::from(differences.iter().sum::<u32>()) / differences.len() as f64;
        let worst = differences.iter().max().copied().unwrap_or(0);
        // Lossy decoders differ in how they round and how they enlarge the colour planes; the others must be exact.
        let (mean_limit, worst_limit) = match info.format {
            Format::Jpeg => (1.0, 24),
            Format::WebP if name.contains("lossy") => (1.0, 24),
            _ => (0.0, 0),
        };
        println!("{name}: mean difference {mean:.3}, worst {worst}");
        assert!(mean <= mean_limit && worst <= worst_limit, "{name}: mean difference {mean:.3}, worst {worst}");
    }
}

#[test]
fn what_is_cut_off_is_an_error() {
    for (name, format) in [
        ("truncated_half.jpg", "jpeg"),
        ("truncated_end.jpg", "jpeg"),
        ("truncated_progressive.jpg", "jpeg"),
        ("truncated.png", "png"),
        ("truncated.webp", "webp"),
        ("truncated.bmp", "bmp"),
    ] {
        let error = decode(&bytes(name), &DecodeLimits::default(), Vec::new()).expect_err(name);
        assert!(matches!(error, DecodeError::Corrupt { .. }), "{name}: {error}");
        assert_eq!(error.format(), format);
    }
}

#[test]
fn every_prefix_of_every_picture_is_an_error_or_a_picture() {
    for name in pictures() {
        let data = bytes(&name);
        for length in (0..data.len()).step_by(7) {
            let _ = probe(&data[..length]);
            if let Ok(decoded) = decode(&data[..length], &DecodeLimits::default(), Vec::new()) {
                let (width, height, _) = reference(&name);
                assert_eq!((decoded.image.width(), decoded.image.height()), (width, height), "{name} at {length}");
            }
        }
    }
}

#[test]
fn the_limit_is_checked_against_the_header() {
    // A header that promises 60000 x 60000 pixels, and nothing else.
    let mut bmp = bytes("rgb.bmp");
    bmp[18..22].copy_from_slice(&60_000_u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000_u32.to_le_bytes());
    let error = decode(&bmp, &DecodeLimits::default(), Vec::new()).expect_err("too large");
    assert_eq!(error.to_string(), "the bmp picture is 60000x60000: 3600000000 pixels, the limit is 50000000");
    // Sizes that the decoders would refuse by themselves, in their own words.
    let mut png = bytes("rgb.png");
    for side in [100_000_u32, 1 << 30, (1 << 31) - 1, 1 << 31, u32::MAX] {
        png[16..20].copy_from_slice(&side.to_be_bytes());
        png[20..24].copy_from_slice(&side.to_be_bytes());
        let message = decode(&png, &DecodeLimits::default(), Vec::new()).expect_err("too large").to_string();
        let pixels = u64::from(side) * u64::from(side);
        assert_eq!(message, format!("the png picture is {side}x{side}: {pixels} pixels, the limit is 50000000"));
        assert_eq!(probe(&png).map(|info| (info.width, info.height)), Ok((side, side)));
    }
    bmp[18..22].copy_from_slice(&100_000_u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&(-100_000_i32).to_le_bytes());
    let error = decode(&bmp, &DecodeLimits::default(), Vec::new()).expect_err("too large");
    assert_eq!(error.to_string(), "the bmp picture is 100000x100000: 10000000000 pixels, the limit is 50000000");
    bmp[22..26].copy_from_slice(&100_i32.to_le_bytes());
    let error = decode(&bmp, &DecodeLimits::default(), Vec::new()).expect_err("too long");
    assert_eq!(error.to_string(), "unsupported bmp: a picture of 100000x100, the longest side is 65535");
    for name in pictures() {
        let (width, height, _) = reference(&name);
        let pixels = u64::from(width) * u64::from(height);
        let under = DecodeLimits { max_pixels: pixels - 1 };
        let error = decode(&bytes(&name), &under, Vec::new()).expect_err(&name);
        assert!(matches!(error, DecodeError::TooManyPixels { limit, .. } if limit == pixels - 1), "{name}: {error}");
        assert!(decode(&bytes(&name), &DecodeLimits { max_pixels: pixels }, Vec::new()).is_ok(), "{name}");
    }
}

#[test]
fn a_chunk_longer_than_the_file_is_not_believed() {
    let mut webp = bytes("orientation_3.webp");
    let exif = webp.windows(4).position(|name| name == b"EXIF").expect("a chunk");
    webp[exif + 4..exif + 8].copy_from_slice(&3_000_000_000_u32.to_le_bytes());
    let message = probe(&webp).expect_err("too long").to_string();
    assert!(message.starts_with("corrupt webp: chunk \"EXIF\" says 3000000000 bytes, "), "{message}");
}

#[test]
fn a_frame_larger_than_its_canvas_is_not_believed() {
    // Lossy and lossless pixels below a canvas of 37x23, also in an animation.
    for (name, chunk, at) in
        [("alpha_lossy.webp", b"VP8 ", 14), ("orientation_3.webp", b"VP8L", 9), ("animated.webp", b"VP8L", 9)]
    {
        let mut webp = bytes(name);
        let chunk = webp.windows(4).position(|name| name == chunk).expect("a chunk");
        webp[chunk + at..chunk + at + 4].copy_from_slice(&0x0fff_3fff_u32.to_le_bytes());
        let message = decode(&webp, &DecodeLimits::default(), Vec::new()).expect_err("too large").to_string();
        assert!(
            message.starts_with("corrupt webp: a frame of 16") && message.ends_with(" in a canvas of 37x23"),
            "{message}"
        );
    }
}

#[test]
fn other_bytes_are_named() {
    let text = |data: &[u8]| decode(data, &DecodeLimits::default(), Vec::new()).expect_err("no picture").to_string();
    assert_eq!(
        text(b"<svg>"),
        "not a picture in a known format (JPEG, PNG, WebP, BMP): 5 bytes, beginning [3c, 73, 76, 67, 3e]"
    );
    assert_eq!(text(b""), "not a picture in a known format (JPEG, PNG, WebP, BMP): 0 bytes, beginning []");
    assert_eq!(text(b"GIF89a"), "unsupported gif: send JPEG, PNG, WebP or BMP");
}

#[test]
fn the_buffer_is_used_again() {
    let buffer = Vec::with_capacity(1 << 20);
    let place = buffer.as_ptr();
    let decoded = decode(&bytes("baseline_420.jpg"), &DecodeLimits::default(), buffer).expect("a picture");
    let pixels = decoded.image.into_pixels();
    assert_eq!(pixels.as_ptr(), place);
    let decoded = decode(&bytes("rgb.png"), &DecodeLimits::default(), pixels).expect("a picture");
    let pixels = decoded.image.into_pixels();
    assert_eq!(pixels.as_ptr(), place);
}

#[test]
fn large_pictures_are_read_whole() {
    let picture = scene(900, 600);
    let size = (picture.width(), picture.height());
    let rgb = image::RgbImage::from_raw(size.0, size.1, picture.pixels().to_vec()).expect("as many as said");
    let deep = image::DynamicImage::ImageRgb8(rgb.clone()).into_rgba16();
    let rgb = image::DynamicImage::ImageRgb8(rgb);
    let wide = image::DynamicImage::ImageRgb8(image::RgbImage::from_pixel(400_000, 2, image::Rgb([9, 8, 7])));
    let mut data = std::io::Cursor::new(Vec::new());
    wide.write_to(&mut data, image::ImageFormat::Png).expect("a wide PNG");
    let decoded = decode(data.get_ref(), &DecodeLimits::default(), Vec::new()).expect("a wide PNG");
    assert_eq!(decoded.image.pixels(), wide.as_bytes());
    for (name, picture, format) in [
        ("PNG", rgb.clone(), image::ImageFormat::Png),
        ("PNG of 16 bits and alpha", image::DynamicImage::ImageRgba16(deep), image::ImageFormat::Png),
        ("WebP", rgb.clone(), image::ImageFormat::WebP),
        ("BMP", rgb, image::ImageFormat::Bmp),
    ] {
        let mut data = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut data, format).expect(name);
        let decoded = decode(data.get_ref(), &DecodeLimits::default(), Vec::new()).expect(name);
        assert_eq!(decoded.image, scene(size.0, size.1), "{name}");
    }
}

/// The scene that `make.py` draws.
fn scene(width: u32, height: u32) -> Image {
    let mut pixels = Vec::new();
    let (right, bottom) = (f64::from(width - 1), f64::from(height - 1));
    for y in 0..height {
        for x in 0..width {
            let (x, y) = (f64::from(x), f64::from(y));
            let (across, down) = (x - f64::from(width) * 0.3, y - f64::from(height) * 0.35);
            let radius = f64::from(height) * 0.2;
            let colour = if across * across + down * down < radius * radius {
                [240.0, 230.0, 90.0]
            } else {
                [255.0 * x / right, 255.0 * y / bottom, 255.0 * (1.0 - x / right) * y / bottom]
            };
            pixels.extend(colour.map(|value| value.round_ties_even() as u8));
        }
    }
    Image::new(width, height, pixels).expect("as many as said")
}

#[test]
fn resizing_gives_the_pixels_of_opencv() {
    let cases: Value = serde_json::from_slice(&bytes("resize.json")).expect("JSON");
    let cases = cases.as_array().expect("cases");
    assert!(cases.len() >= 10);
    for case in cases {
        let side = |key: &str, at: usize| case[key][at].as_u64().expect("a size") as u32;
        let (width, height) = (side("to", 0), side("to", 1));
        let filter = if case["filter"] == "bicubic" { Filter::Bicubic } else { Filter::Bilinear };
        // Without normalisation, so that the values are the pixels.
        let preprocess =
            Preprocess { filter, scale: 1.0, mean: [0.0; 3], std: [1.0; 3], ..Preprocess::ppyolo(width, height) };
        let picture = scene(side("from", 0), side("from", 1));
        let mut out = vec![0.0; preprocess.input_len()];
        preprocess.run(&picture, &mut out, &mut Resizer::default()).expect("resized");
        let samples = case["samples"].as_array().expect("samples");
        let (mut total, mut worst, mut at) = (0.0, 0.0_f64, 0);
        for y in (0..height as usize).step_by(5) {
            for x in (0..width as usize).step_by(7) {
                for (channel, expected) in samples[at].as_array().expect("a pixel").iter().enumerate() {
                    let got = out[(channel * height as usize + y) * width as usize + x];
                    let difference = (f64::from(got) - expected.as_f64().expect("a number")).abs();
                    total += difference;
                    worst = worst.max(difference);
                }
                at += 1;
            }
        }
        assert_eq!(at, samples.len());
        let mean = total / (3 * at) as f64;
        println!("{} to {}, {filter:?}: mean difference {mean:.3}, worst {worst}", case["from"], case["to"]);
        // The library rounds to bytes between its two passes, OpenCV does not: visible where bicubic overshoots 255.
        let limit = if filter == Filter::Bicubic { 3.0 } else { 1.0 };
        assert!(mean < 0.2 && worst <= limit, "{} to {}, {filter:?}: {mean}, {worst}", case["from"], case["to"]);
    }
}
