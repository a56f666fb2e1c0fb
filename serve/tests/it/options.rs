//! What a request chooses for itself.

use detectd_proto::detect::v1 as wire;
use tonic::Code;

use crate::support::{Daemon, Setup, encoded, png, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_hold_for_their_own_request() {
    let daemon = Daemon::start(Setup::default()).await;
    let mut client = daemon.client().await;
    let mut count = async |options: Option<wire::DetectOptions>| {
        let request = wire::DetectRequest { options, ..request([2, 128, 0]) };
        client.detect(request).await.map(|response| response.into_inner().detections.len())
    };
    let threshold =
        |score| Some(wire::DetectOptions { score_threshold: Some(score), ..wire::DetectOptions::default() });
    let labels = |labels: &[&str]| {
        let class_labels = labels.iter().map(ToString::to_string).collect();
        Some(wire::DetectOptions { class_labels, ..wire::DetectOptions::default() })
    };
    assert_eq!(count(None).await.unwrap(), 1);
    assert_eq!(count(threshold(0.9)).await.unwrap(), 0);
    assert_eq!(count(threshold(0.1)).await.unwrap(), 1);
    assert_eq!(count(labels(&["parts-1"])).await.unwrap(), 0);
    assert_eq!(count(labels(&["parts-1", "parts-2"])).await.unwrap(), 1);
    for (options, expected) in [(threshold(1.5), "options.score_threshold"), (labels(&["x"]), "parts-0")] {
        let status = count(options).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_pixels_are_read_in_their_layout() {
    let daemon = Daemon::start(Setup::default()).await;
    let mut client = daemon.client().await;
    let cases = [
        (wire::PixelLayout::Rgb, vec![3, 255, 0]),
        (wire::PixelLayout::Bgr, vec![0, 255, 3]),
        (wire::PixelLayout::Rgba, vec![3, 255, 0, 9]),
        (wire::PixelLayout::Bgra, vec![0, 255, 3, 9]),
    ];
    for (layout, pixel) in cases {
        let raw =
            wire::RawImage { data: pixel.repeat(6).into(), width: 3, height: 2, layout: layout.into(), row_stride: 0 };
        let image = Some(wire::Image { source: Some(wire::image::Source::Raw(raw)) });
        let response = client.detect(wire::DetectRequest { image, ..wire::DetectRequest::default() }).await.unwrap();
        assert_eq!(response.into_inner().detections[0].class_id, 3, "{layout:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_images_share_their_options() {
    let daemon = Daemon::start(Setup::default()).await;
    let options = Some(wire::DetectOptions { score_threshold: Some(0.6), ..wire::DetectOptions::default() });
    let images = vec![encoded(png([1, 255, 0])), encoded(png([1, 128, 0]))];
    let request = wire::DetectBatchRequest { images, options, request_id: "mine".into(), ..Default::default() };
    let response = daemon.client().await.detect_batch(request).await.unwrap().into_inner();
    let counts: Vec<_> = response
        .results
        .iter()
        .map(|result| match result.result.as_ref().unwrap() {
            wire::image_result::Result::Response(response) => response.detections.len(),
            wire::image_result::Result::Error(error) => panic!("{error:?}"),
        })
        .collect();
    assert_eq!(counts, [1, 0]);
    assert_eq!(response.request_id, "mine");
}
