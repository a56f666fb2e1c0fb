//! The networks against published and independently counted numbers.

use tch::{Device, Kind, Tensor};

use super::*;

const PARAMETERS: &str = include_str!("../../tests/data/params.json");
const SCALES: [(&str, Scale); 5] =
    [("n", Scale::N), ("s", Scale::S), ("m", Scale::M), ("l", Scale::L), ("x", Scale::X)];

fn cost(architecture: Architecture, scale: Scale, classes: usize, side: usize) -> Cost {
    let model = ModelYaml::released(architecture, scale, classes).expect("a released model");
    Cost::of(&Plan::new(&model).expect("a plan"), side, side).expect("its cost")
}

/// Parameters of each layer, summed over the names that begin with `model.N.`.
fn by_layer(cost: &Cost, layers: usize) -> Vec<u64> {
    let mut sums = vec![0; layers];
    for (name, parameters) in &cost.by_name {
        let layer: usize = name.split('.').nth(1).and_then(|number| number.parse().ok()).expect("a layer's number");
        sums[layer] += parameters;
    }
    sums
}

#[test]
fn every_layer_has_the_counted_parameters() {
    let known: serde_json::Value = serde_json::from_str(PARAMETERS).expect("the fixture");
    let mut checked = 0;
    for (release, architecture) in [("v5.0", Architecture::V5), ("v6.0-v7.0", Architecture::V6)] {
        for (name, scale) in SCALES {
            let expected = &known["yolov5"][format!("{release}:{name}")];
            if expected.is_null() {
                continue;
            }
            let cost80 = cost(architecture, scale, 80, 640);
            assert_eq!(Some(cost80.parameters), expected["total"].as_u64(), "{release} {name}");
            assert_eq!(Some(cost(architecture, scale, 20, 640).parameters), expected["nc20"].as_u64());
            assert_eq!(Some(cost(architecture, scale, 1, 640).parameters), expected["nc1"].as_u64());
            let layers = expected["layers"].as_array().expect("layers");
            let counted: Vec<Option<u64>> = layers.iter().map(|layer| layer[6].as_u64()).collect();
            let found: Vec<Option<u64>> = by_layer(&cost80, layers.len()).into_iter().map(Some).collect();
            assert_eq!(found, counted, "{release} {name}");

            let model = ModelYaml::released(architecture, scale, 80).expect("a released model");
            for (layer, expected) in Plan::new(&model).expect("a plan").layers.iter().zip(layers) {
                assert_eq!(Some(layer.channels as u64), expected[5].as_u64(), "{release} {name} layer {}", layer.index);
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 9);
}

#[test]
fn totals_equal_the_published_ones() {
    let v5 = [7_276_605, 21_375_645, 47_056_765, 87_775_965];
    for ((_, scale), expected) in SCALES[1..].iter().zip(v5) {
        assert_eq!(cost(Architecture::V5, *scale, 80, 640).parameters, expected);
    }
    let v6 = [1_872_157, 7_235_389, 21_190_557, 46_563_709, 86_749_405];
    let folded = [1_867_405, 7_225_885, 21_172_173, 46_533_693, 86_705_005];
    let one_class = [1_765_270, 7_022_326, 20_871_318, 46_138_294, 86_217_814];
    for (index, (_, scale)) in SCALES.iter().enumerate() {
        let counted = cost(Architecture::V6, *scale, 80, 640);
        assert_eq!((counted.parameters, counted.folded_parameters), (v6[index], folded[index]));
        assert_eq!(cost(Architecture::V6, *scale, 1, 640).parameters, one_class[index]);
    }
}

#[test]
fn arithmetic_is_near_the_published_gflops() {
    for ((_, scale), published) in SCALES.iter().zip([4.5, 16.5, 49.0, 109.1, 205.7]) {
        let counted = cost(Architecture::V6, *scale, 80, 640).gflops();
        // The published numbers also count normalisations and activations.
        assert!(counted < published && counted > 0.94 * published, "{counted} against {published}");
    }
}

#[test]
fn the_csp_form_has_its_published_size() {
    let text = include_str!("../../models/yolov5-v5.0.yaml").replace("C3, [", "BottleneckCSP, [");
    let plan = Plan::new(&ModelYaml::parse(&text).expect("a model")).expect("a plan");
    assert_eq!(Cost::of(&plan, 640, 640).expect("its cost").parameters, 7_468_157);
}

#[test]
fn weights_have_the_counted_size_and_the_state_names() {
    let model = ModelYaml::released(Architecture::V5, Scale::S, 80).expect("a released model");
    let network = Network::new(&model, 0).expect("a network");
    let trainable: usize =
        network.weights().iter().filter(|(name, _)| is_trainable(name)).map(|(_, weight)| weight.numel()).sum();
    assert_eq!(trainable, 7_276_605);
    for (name, shape) in [
        ("model.0.conv.conv.weight", &[32, 12, 3, 3][..]),
        ("model.2.cv1.conv.weight", &[32, 64, 1, 1]),
        ("model.4.m.2.cv2.bn.running_var", &[64]),
        ("model.8.cv2.conv.weight", &[512, 1024, 1, 1]),
        ("model.24.m.1.weight", &[255, 256, 1, 1]),
        ("model.24.m.2.bias", &[255]),
        ("model.24.anchors", &[3, 3, 2]),
    ] {
        assert_eq!(network.weights()[name].size(), shape, "{name}");
    }
    let anchors = &network.weights()["model.24.anchors"];
    assert_eq!(anchors.double_value(&[2, 1, 0]), 156.0 / 32.0);
}

#[test]
fn fresh_biases_expect_few_objects() {
    let model = ModelYaml::released(Architecture::V6, Scale::N, 8).expect("a released model");
    let network = Network::new(&model, 0).expect("a network");
    let objectness = (8.0 / (640.0_f64 / 8.0).powi(2)).ln();
    let mean = network.weights()["model.24.m.0.bias"].view([3, 13]).select(1, 4).mean(Kind::Double);
    // Around it lies what a fresh bias has: at most 1 / sqrt(64).
    assert!((f64::try_from(mean).expect("one number") - objectness).abs() < 0.125);
}

#[test]
fn folding_keeps_the_function() {
    for architecture in [Architecture::V5, Architecture::V6] {
        let model = ModelYaml::released(architecture, Scale::N, 3).expect("a released model");
        let network = Network::new(&model, 1).expect("a network");
        // Statistics and scales that are not the identity.
        for (name, weight) in network.weights() {
            if name.contains(".bn.") {
                let _filled = tch::no_grad(|| weight.shallow_clone().uniform_(0.5, 1.5));
            }
        }
        let folded = network.folded().expect("a folded network");
        assert!(folded.weights().keys().all(|name| !name.contains(".bn.")));
        let count: usize =
            folded.weights().iter().filter(|(name, _)| is_trainable(name)).map(|(_, weight)| weight.numel()).sum();
        let cost = cost(architecture, Scale::N, 3, 64);
        assert_eq!(count as u64, cost.folded_parameters);
        let pictures = Tensor::rand([2, 3, 64, 96], (Kind::Float, Device::Cpu));
        tch::no_grad(|| {
            let before = network.forward(&pictures, Pass::INFERENCE).expect("outputs");
            let after = folded.forward(&pictures, Pass::INFERENCE).expect("outputs");
            for (before, after) in before.iter().zip(&after) {
                let scale = before.abs().max().double_value(&[]);
                let difference = (before - after).abs().max().double_value(&[]);
                assert!(difference < 1e-4 * scale.max(1.0), "{difference} at a scale of {scale}");
            }
        });
    }
}

#[test]
fn decoded_zeros_are_cell_centres_and_priors() {
    let model = ModelYaml::released(Architecture::V6, Scale::N, 2).expect("a released model");
    let detect = Plan::new(&model).expect("a plan").detect;
    let zeros = |stride: i64| Tensor::zeros([2, 3 * 7, 64 / stride, 96 / stride], (Kind::Float, Device::Cpu));
    let rows =
        Decoder::new(&detect).and_then(|decoder| decoder.decode(&[zeros(8), zeros(16), zeros(32)])).expect("rows");
    assert_eq!(rows.size(), [2, 3 * (8 * 12 + 4 * 6 + 2 * 3), 7]);
    // Level P4, second prior, second row, third column, second picture.
    let row = 3 * 8 * 12 + 4 * 6 + 6 + 2;
    let values: Vec<f64> = (0..7).map(|index| rows.double_value(&[1, row, index])).collect();
    assert_eq!(values, [2.5 * 16.0, 1.5 * 16.0, 62.0, 45.0, 0.5, 0.5, 0.5]);
}

#[test]
fn saved_weights_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    let model = ModelYaml::released(Architecture::V6, Scale::N, 2).expect("a released model");
    let network = Network::new(&model, 3).expect("a network");
    let metadata = [("classes".to_owned(), "2".to_owned())].into();
    write_safetensors(&path, network.weights(), metadata).expect("written");
    let (read, metadata) = read_safetensors(&path).expect("read");
    assert_eq!(metadata["classes"], "2");
    assert!(read.keys().eq(network.weights().keys()));
    assert!(read.iter().all(|(name, tensor)| tensor.equal(&network.weights()[name])));

    let other =
        Network::new(&ModelYaml::released(Architecture::V6, Scale::N, 5).expect("a model"), 4).expect("a network");
    let report = load_weights(other.weights(), &read).expect("loaded");
    let heads = ["model.24.m.0.bias", "model.24.m.0.weight", "model.24.m.1.bias"];
    assert_eq!(report.mismatched[..3], heads);
    assert_eq!((report.mismatched.len(), report.missing.len(), report.unexpected.len()), (6, 0, 0));
    assert!(other.weights()["model.0.conv.weight"].equal(&read["model.0.conv.weight"]));

    std::fs::write(&path, b"no weights").expect("written");
    let error = read_safetensors(&path).expect_err("no weights").to_string();
    assert!(error.contains("weights.safetensors"), "{error}");
}

#[test]
fn what_is_wrong_in_a_model_file_is_named() {
    let good = include_str!("../../models/yolov5-v6.yaml");
    let cases = [
        ("[-1, 1, SPPF, [1024, 5]]", "[-1, 1, SPPG, [1024, 5]]", "there is no module SPPG"),
        ("[[-1, 6], 1, Concat, [1]]", "[[-1, 60], 1, Concat, [1]]", "layer 60"),
        ("[[-1, 6], 1, Concat, [1]]", "[[-1, 2], 1, Concat, [1]]", "different sizes"),
        ("[-1, 1, SPPF, [1024, 5]]", "[-1, 1, SPPF, [1024, 4]]", "must be odd"),
        ("[-1, 3, C3, [512, false]]", "[-1, 3, C3, [512, 7]]", "true or false"),
        ("depth_multiple: 0.33", "depth_multiple: -1", "depth_multiple"),
        ("nc: 80", "nc: 0", "nc must be"),
        ("[10, 13, 16, 30, 33, 23]", "[10, 13, 16, 30, 33]", "width, height pairs"),
        ("[nc, anchors]", "[nc]", "[nc, anchors]"),
        ("[[17, 20, 23], 1, Detect", "[[17, 20], 1, Detect", "2 inputs, but anchors for 3"),
        ("[-1, 1, Conv, [64, 6, 2, 2]]", "[-1, 1, Conv, []]", "argument 0"),
    ];
    for (from, to, expected) in cases {
        assert!(good.contains(from), "{from}");
        let result = ModelYaml::parse(&good.replacen(from, to, 1)).and_then(|model| Plan::new(&model));
        let error = result.expect_err(to).to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn blank_anchors_build_but_do_not_decode() {
    let text = include_str!("../../models/yolov5-v6.yaml");
    let start = text.find("  - [10").expect("anchors");
    let end = text.find("backbone:").expect("the backbone");
    let text = format!("{}{}", text[..start].replace("anchors:", "anchors: 3"), &text[end..]);
    let plan = Plan::new(&ModelYaml::parse(&text).expect("a model")).expect("a plan");
    assert_eq!((plan.detect.anchors_per_level, plan.detect.anchors.len()), (3, 0));
    let error = Decoder::new(&plan.detect).expect_err("blank anchors").to_string();
    assert!(error.contains("anchors for 0 levels"), "{error}");
}
