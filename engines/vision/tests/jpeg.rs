//! JPEG files that are damaged, made here from whole ones: what lacks a part of the picture is an error, what lacks
//! nothing of it is read.

use std::path::Path;

use detectd_vision::{DecodeError, DecodeLimits, Image, decode, probe};

const END: [u8; 2] = [0xff, 0xd9];
/// Pictures of one scan.
const SEQUENTIAL: [&str; 7] =
    ["baseline_444", "baseline_422", "baseline_420", "grey", "cmyk", "orientation_6", "restarts"];

fn bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/images/{name}.jpg"));
    std::fs::read(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

fn read(data: &[u8]) -> Result<Image, DecodeError> {
    decode(data, &DecodeLimits::default(), Vec::new()).map(|decoded| decoded.image)
}

/// The message of the error that there must be.
fn refused(what: &str, data: &[u8]) -> String {
    let error = read(data).expect_err(what);
    assert!(matches!(error, DecodeError::Corrupt { .. }), "{what}: {error}");
    error.to_string()
}

/// Where a marker's segments begin, and the end of the last of them.
fn segments(data: &[u8], marker: u8) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut found) = (2, Vec::new());
    while data[at + 1] != 0xd9 {
        if data[at] != 0xff || data[at + 1] == 0 || (0xd0..=0xd7).contains(&data[at + 1]) {
            at += 1;
            continue;
        }
        let end = at + 2 + usize::from(u16::from_be_bytes([data[at + 2], data[at + 3]]));
        if data[at + 1] == marker {
            found.push(at..end);
        }
        at = end;
    }
    found
}

/// Where the data of the first scan begin.
fn scan(data: &[u8]) -> usize {
    segments(data, 0xda)[0].end
}

/// Where the restart markers are.
fn restarts(data: &[u8]) -> Vec<usize> {
    (scan(data)..data.len() - 1).filter(|at| data[*at] == 0xff && (0xd0..=0xd7).contains(&data[at + 1])).collect()
}

#[test]
fn a_cut_anywhere_is_an_error_with_an_end_marker_or_without() {
    for name in SEQUENTIAL {
        let whole = bytes(name);
        for cut in scan(&whole)..whole.len() - 4 {
            let what = format!("{name}, {cut} of {} bytes", whole.len());
            refused(&what, &whole[..cut]);
            refused(&what, &[&whole[..cut], &END].concat());
        }
    }
}

#[test]
fn a_cut_within_the_scans_of_a_progressive_picture_is_an_error() {
    let whole = bytes("progressive");
    let scans = segments(&whole, 0xda);
    assert!(scans.len() > 5);
    for cut in [scans[0].end, scans[0].end + 9, scans[1].end + 1, scans[1].end + 20, scans[3].end + 1] {
        for data in [whole[..cut].to_vec(), [&whole[..cut], &END].concat()] {
            refused(&format!("{cut} of {} bytes", whole.len()), &data);
        }
    }
    let message = refused("one scan", &[&whole[..scans[0].end + 9], &END].concat());
    assert_eq!(message, "corrupt jpeg: truncated: a progressive picture ends within its first scan");
}

#[test]
fn a_header_that_promises_more_than_there_is_is_an_error() {
    for name in SEQUENTIAL {
        let mut data = bytes(name);
        let frame = segments(&data, 0xc0)[0].start;
        // Eight rows and eight columns more, up to what the limit lets through.
        for (height, width) in [(23 + 16, 37), (23, 37 + 16), (480, 640), (7000, 7000)] {
            data[frame + 5..frame + 7].copy_from_slice(&u16::to_be_bytes(height));
            data[frame + 7..frame + 9].copy_from_slice(&u16::to_be_bytes(width));
            refused(&format!("{name} as {width}x{height}"), &data);
        }
    }
}

#[test]
fn damaged_restart_intervals_are_an_error() {
    let whole = bytes("restarts");
    let markers = restarts(&whole);
    assert_eq!(markers.len(), 2);
    let mut data = whole.clone();
    data[markers[0] + 1] = 0xd5;
    assert_eq!(refused("number", &data), "corrupt jpeg: restart marker number 5, number 0 was due");
    let interval = segments(&whole, 0xdd)[0].start;
    for (blocks, expected) in [
        (0, "none was due"),
        (1, "2 restart markers, 5 were due"),
        (3, "the data end too early or are broken"),
        (6, "2 restart markers, 0 were due"),
    ] {
        let mut data = whole.clone();
        data[interval + 5] = blocks;
        let message = refused(&format!("an interval of {blocks}"), &data);
        assert!(message.contains(expected), "{message}");
    }
    let [first, second] = [markers[0], markers[1]];
    for (what, data) in [
        ("no marker", [&whole[..second], &whole[second + 2..]].concat()),
        ("no interval", [&whole[..first], &whole[second..]].concat()),
        ("zeros", [&whole[..first + 9], &vec![0; whole.len() - first - 11], &END].concat()),
        ("a shorter interval", [&whole[..second - 9], &whole[second..]].concat()),
    ] {
        refused(what, &data);
    }
}

#[test]
fn what_lacks_nothing_of_the_picture_is_read() {
    for name in SEQUENTIAL.into_iter().chain(["progressive"]) {
        let whole = bytes(name);
        let expected = read(&whole).expect(name);
        let without_end = &whole[..whole.len() - 2];
        assert_eq!(read(without_end).as_ref(), Ok(&expected), "{name} without its end marker");
        let behind = [&whole[..], b"\xff\xd8\xff\xe0\x00 another"].concat();
        assert_eq!(read(&behind).as_ref(), Ok(&expected), "{name} with something behind");
        for at in segments(&whole, 0xdb).iter().chain(&segments(&whole, 0xc4)).chain(&segments(&whole, 0xda)) {
            if at.start > scan(&whole) {
                continue;
            }
            let stray = [&whole[..at.start], &[0x12, 0x34], &whole[at.start..]].concat();
            assert!(probe(&stray).is_ok(), "{name} with stray bytes at {}", at.start);
            assert_eq!(read(&stray).as_ref(), Ok(&expected), "{name} with stray bytes at {}", at.start);
        }
    }
}

#[test]
fn a_segment_longer_than_the_file_is_named() {
    let mut data = bytes("grey");
    let tables = segments(&data, 0xc4)[0].start;
    data[tables + 2..tables + 4].copy_from_slice(&[0xff, 0xf0]);
    let left = data.len() - tables - 2;
    assert_eq!(refused("too long", &data), format!("corrupt jpeg: segment 0xc4 says 65520 bytes, {left} are left"));
}
