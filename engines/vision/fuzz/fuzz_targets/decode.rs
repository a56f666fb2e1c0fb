//! Any bytes: probing and decoding end in a picture within the limit or in an error.

#![no_main]

use detectd_vision::{DecodeLimits, decode, probe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = DecodeLimits { max_pixels: 1 << 20 };
    let info = probe(data);
    if let Ok(decoded) = decode(data, &limits, Vec::new()) {
        let info = info.expect("what decodes has a header");
        assert_eq!((decoded.image.width(), decoded.image.height()), (info.width, info.height));
        assert!(u64::from(info.width) * u64::from(info.height) <= limits.max_pixels);
    }
});
