//! JPEG files rewritten so that their decoder notices data that are missing.
//!
//! Where a scan ends too early, the decoder reads zeros, which are valid codes in nearly every picture, and so paints
//! the rest. No code may be all ones (ITU T.81, section C.2; the decoder refuses tables that have one). So ones are put
//! behind the data: whoever reads on fails.

use super::{DecodeError, Format, corrupt};

/// Ones, as they stand in a scan: a zero follows each 0xff. More than the longest code with its value.
const ONES: [u8; 32] = {
    let mut ones = [0; 32];
    let mut at = 0;
    while at < ones.len() {
        ones[at] = 0xff;
        at += 2;
    }
    ones
};
const END: [u8; 2] = [0xff, 0xd9];

/// The segments and scans of a file, without what stands between or behind them, with ones behind each piece of a scan
/// where the decoder bears it, and with an end marker, also if there was none.
///
/// # Errors
/// A segment longer than the file, restart markers out of order or of another number than the frame's size tells, a progressive picture of one scan.
pub(super) fn guarded(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut file = File { bytes, at: 2, out: Vec::with_capacity(bytes.len() + 2 * ONES.len()) };
    file.out.extend_from_slice(&[0xff, 0xd8]);
    let (mut frame, mut interval, mut scans) = (Frame::default(), 0, 0);
    while let Some(marker) = file.marker() {
        let content = file.segment(marker)?;
        match (marker, content) {
            (0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf, [_, h1, h0, w1, w0, count, components @ ..]) => {
                frame = Frame {
                    progressive: marker == 0xc2,
                    width: u64::from(u16::from_be_bytes([*w1, *w0])),
                    height: u64::from(u16::from_be_bytes([*h1, *h0])),
                    components: *count,
                    sampling: components.as_chunks().0.iter().map(|[_, sampling, _]| *sampling).collect(),
                };
            }
            (0xdd, [high, low, ..]) => interval = u16::from_be_bytes([*high, *low]),
            (0xda, [count, ..]) => {
                scans += 1;
                let restarts = file.scan(interval)?;
                let last = file.here().marker().is_none();
                if last && frame.progressive && scans == 1 {
                    return Err(corrupt(Format::Jpeg, "truncated: a progressive picture ends within its first scan"));
                }
                // After a scan that has all there is, nothing else can follow.
                let whole = !frame.progressive && *count == frame.components;
                // The decoder finds the next scan only if nothing is between, but for later scans of progressive ones.
                if last || whole || (frame.progressive && scans > 1) {
                    file.out.extend_from_slice(&ONES);
                }
                if whole {
                    frame.check_restarts(restarts, interval)?;
                    break;
                }
            }
            _ => {}
        }
    }
    file.out.extend_from_slice(&END);
    Ok(file.out)
}

/// What the frame header says.
#[derive(Default)]
struct Frame {
    progressive: bool,
    width: u64,
    height: u64,
    components: u8,
    /// Of each component: across in the upper four bits, down in the lower.
    sampling: Vec<u8>,
}

impl Frame {
    /// A scan of all components has a restart marker after every `interval` units, behind the last one or not.
    fn check_restarts(&self, restarts: u64, interval: u16) -> Result<(), DecodeError> {
        // A single component has one block a unit, whatever its sampling says.
        let most = |side: fn(&u8) -> u8| match self.sampling.as_slice() {
            [] | [_] => 1,
            several => u64::from(several.iter().map(side).max().unwrap_or(1).max(1)),
        };
        let (across, down) = (8 * most(|sampling| sampling >> 4), 8 * most(|sampling| sampling & 15));
        let units = self.width.div_ceil(across) * self.height.div_ceil(down);
        let pieces = if interval == 0 { 1 } else { units.div_ceil(u64::from(interval)) };
        if restarts == pieces || restarts + 1 == pieces {
            return Ok(());
        }
        let reason = format_args!("{restarts} restart markers, {} were due", pieces.saturating_sub(1));
        Err(corrupt(Format::Jpeg, reason))
    }
}

/// What is read of a file, and what was written.
struct File<'a> {
    bytes: &'a [u8],
    at: usize,
    out: Vec<u8>,
}

impl<'a> File<'a> {
    /// The same place of the file, to look ahead.
    fn here(&self) -> Self {
        Self { bytes: self.bytes, at: self.at, out: Vec::new() }
    }

    /// Passes over the next marker that begins a segment and what is before it. `None` at the end of the picture.
    fn marker(&mut self) -> Option<u8> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            self.at += rest.iter().position(|byte| *byte == 0xff)? + 1;
            match self.bytes.get(self.at)? {
                // Stray bytes, fill bytes, and markers without a length.
                0x00 | 0x01 | 0xd0..=0xd8 | 0xff => {}
                0xd9 => return None,
                marker => {
                    self.at += 1;
                    return Some(*marker);
                }
            }
        }
    }

    /// Copies the segment of a marker that was passed over; its content.
    fn segment(&mut self, marker: u8) -> Result<&'a [u8], DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let size = rest.first_chunk().map_or(0, |size| usize::from(u16::from_be_bytes(*size)));
        let Some(content) = rest.get(2..size) else {
            let reason = format_args!("segment {marker:#04x} says {size} bytes, {} are left", rest.len());
            return Err(corrupt(Format::Jpeg, reason));
        };
        self.out.extend_from_slice(&[0xff, marker]);
        self.out.extend_from_slice(&rest[..size]);
        self.at += size;
        Ok(content)
    }

    /// Copies the data of a scan up to the marker behind, with ones before each restart marker. How many there are.
    fn scan(&mut self, interval: u16) -> Result<u64, DecodeError> {
        let (mut start, mut restarts) = (self.at, 0);
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let Some(offset) = rest.iter().position(|byte| *byte == 0xff) else {
                self.at = self.bytes.len();
                break;
            };
            self.at += offset;
            match rest.get(offset + 1) {
                Some(0x00) => self.at += 2,
                Some(marker @ 0xd0..=0xd7) => {
                    let (came, due) = (u64::from(marker - 0xd0), restarts % 8);
                    if interval == 0 || came != due {
                        let due = if interval == 0 { "none".to_owned() } else { format!("number {due}") };
                        return Err(corrupt(Format::Jpeg, format_args!("restart marker number {came}, {due} was due")));
                    }
                    self.out.extend_from_slice(&self.bytes[start..self.at]);
                    self.out.extend_from_slice(&ONES);
                    restarts += 1;
                    // The marker itself is copied with what follows.
                    start = self.at;
                    self.at += 2;
                }
                // A fill byte before a marker.
                Some(0xff) => self.at += 1,
                Some(_) | None => break,
            }
        }
        self.out.extend_from_slice(&self.bytes[start..self.at]);
        Ok(restarts)
    }
}
