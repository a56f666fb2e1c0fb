//! Bytes from the wire: decoded as a request, checked, resolved against a model's defaults, and its image decoded
//! under a limit. Any bytes give a valid job or a refusal that says why.
#![no_main]

use detectd::error::ErrorCode;
use detectd::options::RequestedOptions;
use detectd::pipeline::ImageSource;
use detectd::rpc::convert;
use detectd_proto::detect::v1 as wire;
use detectd_vision::{DecodeLimits, DetectOptions, decode, from_raw};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// Small, so that an image that promises more shows at once.
const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 18 };
const MAX_DETECTIONS: usize = 1000;
const MAX_IMAGES: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = wire::DetectRequest::decode(bytes) {
        match convert::job(request, None) {
            Ok(job) => {
                resolve(&job.options);
                take(&job.image);
            }
            Err(error) => refused(&error),
        }
    }
    if let Ok(request) = wire::DetectBatchRequest::decode(bytes) {
        match convert::batch_job(&request, MAX_IMAGES) {
            Ok((options, _)) => {
                resolve(&options);
                assert!((1..=MAX_IMAGES).contains(&request.images.len()));
                for image in request.images {
                    convert::image(Some(image)).map_or_else(|error| refused(&error), |image| take(&image));
                }
            }
            Err(error) => refused(&error),
        }
    }
});

fn resolve(requested: &RequestedOptions) {
    let labels = ["bolt", "nut", "gear"].map(String::from);
    match requested.resolve(&DetectOptions::default(), &labels, MAX_DETECTIONS) {
        Ok(options) => {
            assert!(options.validate().is_ok());
            assert!(options.max_detections <= MAX_DETECTIONS);
            assert!(options.classes.is_none_or(|classes| classes.iter().all(|&class| (class as usize) < labels.len())));
        }
        Err(error) => refused(&error),
    }
}

fn take(image: &ImageSource) {
    let decoded = match image {
        ImageSource::Encoded(bytes) => decode(bytes, &LIMITS, Vec::new()).map(|decoded| decoded.image),
        ImageSource::Raw { data, width, height, layout, stride } => {
            from_raw(data, *width, *height, *layout, *stride, &LIMITS)
        }
        ImageSource::Prepared(_) => unreachable!("the detection service takes images only"),
    };
    if let Ok(image) = decoded {
        assert!(u64::from(image.width()) * u64::from(image.height()) <= LIMITS.max_pixels);
    }
}

fn refused(error: &detectd::error::Error) {
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(!error.message.is_empty());
}
