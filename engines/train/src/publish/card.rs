//! What is written about a model: its card and its manifest.

use std::fmt::Write as _;

use anyhow::Result;
use detectd_libtorch::network::Cost;

use crate::evaluation::Metrics;
use crate::scenes::CLASSES;
use crate::training::TrainedModel;

/// `MODEL_CARD.md`
pub fn text(model: &TrainedModel, metrics: &Metrics, [width, height]: [u32; 2], bytes: u64) -> Result<String> {
    let settings = &model.settings;
    let side = settings.input as usize;
    let cost = Cost::of(model.network.plan(), side, side)?;
    let objects: usize = metrics.per_class.iter().map(|class| class.objects).sum();
    let best = model.progress.best.map_or(model.progress.epochs, |(_, epoch)| epoch);
    let mut rows = String::new();
    for class in &metrics.per_class {
        let name = CLASSES.get(class.class_id as usize).copied().unwrap_or("?");
        writeln!(
            rows,
            "| {name} | {} | {:.3} | {:.3} | {:.4} | {:.4} |",
            class.objects, class.precision, class.recall, class.ap50, class.ap50_95
        )?;
    }
    Ok(format!(
        "# {name}

A detector of hardware on a workbench, seen from above: {classes}.

It has been trained from random weights on scenes that the project draws itself. No picture, weight or label from
outside went into it, and it has never seen a photograph: it is there to try and to test the daemon with, and knows
nothing of the world beyond such scenes.

| | |
|---|---|
| Network | YOLOv5 {architecture} {size}, {parameters} parameters |
| Input | {side}x{side} RGB in 0 to 1, letterboxed with grey 114; any number of pictures per run |
| Output | `output` [N, rows, {outputs}]: centre x, centre y, width, height in input pixels, then probabilities of an object and of each class |
| Arithmetic | {gflops:.2} GFLOPs a picture (a multiply-add counted as two) |
| File | model.onnx, {megabytes:.2} MB, f32, batch normalisations folded, opset 17 |
| mAP50 | **{map50:.4}** |
| mAP50-95 | **{map50_95:.4}** |
| Licence | Apache-2.0, as the project |

## Figures

On {pictures} held-out scenes of {width}x{height} pixels with {objects} objects, which neither training nor the choice of
the epoch has used. Every class of a box counts from a score of 0.001 on, greedy suppression at an IoU of 0.65; average
precision over 101 recall levels. Precision and recall are those at a score of {threshold:.3}, where their F1 is best.

| class | objects | precision | recall | AP50 | AP50-95 |
|---|---|---|---|---|---|
{rows}| all | {objects} | {precision:.3} | {recall:.3} | {map50:.4} | {map50_95:.4} |

## Training

`make train-demo`, which is

```
detectd-train train --settings deploy/training/{name}.yaml --run runs/{name}
detectd-train publish --weights runs/{name}/best.safetensors --models deploy/models
```

{scenes} scenes, {epochs} epochs, batches of {batch}, {minutes:.0} minutes on {threads} cores of a shared x86-64 server
without a GPU, convolutions in {arithmetic}; the weights are the running average of epoch {best}. The same settings draw
the same scenes and start from the same weights; rounding differs between processors, so the figures of another run
differ a little.

`training.csv` has the figures of every epoch. All settings, as they were:

```json
{json}
```

## Golden pictures

`golden/` holds held-out scenes and, in `expected.json`, what this model finds in them with the default options.
",
        name = settings.name,
        classes = CLASSES.join(", "),
        architecture = serde_json::to_string(&settings.architecture)?.trim_matches('"'),
        size = serde_json::to_string(&settings.size)?.trim_matches('"'),
        parameters = cost.parameters,
        outputs = CLASSES.len() + 5,
        gflops = cost.gflops(),
        megabytes = bytes as f64 / 1e6,
        map50 = metrics.map50,
        map50_95 = metrics.map50_95,
        pictures = metrics.pictures,
        threshold = metrics.threshold,
        precision = metrics.precision,
        arithmetic = if settings.precision.kind() == tch::Kind::Float { "f32" } else { "bf16 with f32 weights" },
        recall = metrics.recall,
        scenes = settings.train.count,
        epochs = settings.epochs,
        batch = settings.batch,
        minutes = model.progress.seconds / 60.0,
        threads = settings.threads,
        json = serde_json::to_string_pretty(settings)?,
    ))
}

/// `model.toml`
pub fn manifest(model: &TrainedModel) -> String {
    format!(
        "# Hardware on a workbench; see the version's MODEL_CARD.md.\n\
         family = \"yolov5\"\n\
         \n\
         [notes]\n\
         description = \"{}: {}\"\n",
        model.settings.name,
        CLASSES.join(", ")
    )
}
