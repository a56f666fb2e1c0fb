//! The caller's deadline, as the `grpc-timeout` header states it.

use std::time::{Duration, Instant};

use tonic::codegen::http::HeaderMap;
use tonic::metadata::MetadataMap;

/// When the answer is of no use any more: after the caller's timeout, or after `default` if there is none.
pub fn deadline(metadata: &MetadataMap, now: Instant, default: Option<Duration>) -> Option<Instant> {
    deadline_in(metadata.as_ref(), now, default)
}

/// The same from the headers of a call.
pub fn deadline_in(headers: &HeaderMap, now: Instant, default: Option<Duration>) -> Option<Instant> {
    let stated = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse);
    // A timeout beyond what a clock can hold is none.
    stated.or(default).and_then(|timeout| now.checked_add(timeout))
}

/// The deadlines of one stream's requests.
#[derive(Clone, Copy, Debug)]
pub struct StreamDeadline {
    stated: Option<Instant>,
    default: Option<Duration>,
}

impl StreamDeadline {
    /// The caller's timeout is that of the whole stream, which begins `now`.
    pub fn new(metadata: &MetadataMap, now: Instant, default: Option<Duration>) -> Self {
        Self { stated: deadline(metadata, now, None), default }
    }

    /// The deadline of a request that is read `now`, with a timeout of its `own` or none. The default counts from here,
    /// and only if the caller has stated nothing.
    pub fn request(&self, now: Instant, own: Option<Duration>) -> Option<Instant> {
        let default = if self.stated.is_none() { self.default } else { None };
        let own = own.or(default).and_then(|timeout| now.checked_add(timeout));
        [own, self.stated].into_iter().flatten().min()
    }
}

/// One to eight digits and a unit, as the gRPC protocol has it.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("10S", Some(Duration::from_secs(10))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("10", None),
            ("-1S", None),
            ("123456789S", None),
            ("1\u{e9}", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_streams_default_counts_for_each_request() {
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        let seconds = Duration::from_secs;
        let mut metadata = MetadataMap::new();
        let none = StreamDeadline::new(&metadata, start, None);
        assert_eq!(none.request(later, None), None);
        assert_eq!(none.request(later, Some(seconds(1))), Some(later + seconds(1)));
        let default = StreamDeadline::new(&metadata, start, Some(seconds(9)));
        assert_eq!(default.request(later, None), Some(later + seconds(9)));
        assert_eq!(default.request(later, Some(seconds(20))), Some(later + seconds(20)));
        metadata.insert("grpc-timeout", "70S".parse().unwrap());
        let stated = StreamDeadline::new(&metadata, start, Some(seconds(2)));
        assert_eq!(stated.request(later, None), Some(start + seconds(70)));
        assert_eq!(stated.request(later, Some(seconds(1))), Some(later + seconds(1)));
        assert_eq!(stated.request(later, Some(seconds(20))), Some(start + seconds(70)));
    }

    #[test]
    fn the_callers_timeout_goes_before_the_default() {
        let now = Instant::now();
        let mut metadata = MetadataMap::new();
        let default = Some(Duration::from_secs(9));
        assert_eq!(deadline(&metadata, now, None), None);
        assert_eq!(deadline(&metadata, now, default), Some(now + Duration::from_secs(9)));
        metadata.insert("grpc-timeout", "2S".parse().unwrap());
        assert_eq!(deadline(&metadata, now, default), Some(now + Duration::from_secs(2)));
    }
}
