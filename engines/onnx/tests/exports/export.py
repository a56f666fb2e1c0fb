"""Writes ONNX exports with random weights, and what ONNX Runtime says of them: `export.py FOLDER`.

FOLDER gets the models, `exports.json`, which lists them, and raw little-endian inputs and outputs.
"""

import json
import os
import pathlib
import shutil
import sys

os.environ["YOLO_AUTOINSTALL"] = "False"

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from ultralytics import YOLO

SIZE = 320
CLASSES = 80
INPUT = "images"

VARIANTS = {
    "batch1": {"batch": 1},
    "batch4": {"batch": 4},
    "dynamic": {"dynamic": True},
    "nms": {"nms": True, "batch": 1},
    "nms-dynamic": {"nms": True, "dynamic": True},
}


def randomise(model, seed):
    """Statistics and biases such that outputs differ from row to row, as a trained model's do."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.data.uniform_(low, high, generator=generator)

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            uniform(module.running_mean, -0.1, 0.1)
            uniform(module.running_var, 0.5, 1.0)
            uniform(module.weight, 0.9, 1.4)
            uniform(module.bias, -0.2, 0.2)
    for boxes, classes in zip(model.model[-1].cv2, model.model[-1].cv3):
        uniform(boxes[-1].weight, -1.0, 1.0)
        uniform(classes[-1].weight, -1.0, 1.0)
        # Some scores above the threshold of 0.25 that NMS in the graph has.
        uniform(classes[-1].bias, -6.0, 0.0)


def picture(shape, seed):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def describe(folder, name, family, shapes):
    """Runs the file with ONNX Runtime and returns its entry in the list."""
    path = folder / f"{name}.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = onnx.load(path)
    cases = []
    for index, shape in enumerate(shapes):
        data = picture(shape, index)
        outputs = session.run(None, {INPUT: data})
        data.tofile(folder / f"{name}.{index}.input")
        saved = []
        for number, (output, value) in enumerate(zip(session.get_outputs(), outputs)):
            value = np.ascontiguousarray(value.astype(np.float32))
            value.tofile(folder / f"{name}.{index}.output{number}")
            saved.append({"name": output.name, "shape": list(value.shape), "largest": float(np.abs(value).max())})
        cases.append({"shape": list(shape), "outputs": saved})
    operators = sorted({node.op_type for node in model.graph.node})
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    print(f"{name}: opset {opset}, {[output.shape for output in session.get_outputs()]}, {' '.join(operators)}")
    return {"name": name, "family": family, "classes": CLASSES, "opset": opset, "cases": cases}


def shapes_of(options):
    if options.get("dynamic"):
        return [(1, 3, SIZE, SIZE), (3, 3, SIZE, SIZE), (2, 3, 224, 352)]
    return [(options["batch"], 3, SIZE, SIZE)]


class Calibration(CalibrationDataReader):
    def __init__(self):
        self.pictures = iter([{INPUT: picture((1, 3, SIZE, SIZE), 100 + index)} for index in range(4)])

    def get_next(self):
        return next(self.pictures, None)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for seed, architecture in enumerate(["yolov5n", "yolov8n", "yolo11n"]):
        for variant, options in VARIANTS.items():
            name = f"{architecture}-{variant}"
            yolo = YOLO(f"{architecture}.yaml")
            randomise(yolo.model, seed)
            written = yolo.export(format="onnx", imgsz=SIZE, **options)
            shutil.move(written, folder / f"{name}.onnx")
            # ultralytics' own YOLOv5 has the head of YOLOv8.
            entries.append(describe(folder, name, "yolov8", shapes_of(options)))

    source = folder / "yolov8n-batch1.onnx"
    quantize_static(
        source,
        folder / "yolov8n-int8.onnx",
        Calibration(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv"],
    )
    entries.append(describe(folder, "yolov8n-int8", "yolov8", [(1, 3, SIZE, SIZE)]))

    # Half-float weights, widened where they are used: the form that keeps inputs and outputs in 32 bits.
    model = onnx.load(source)
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            wide = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), wide + ".half"))
            casts.append(onnx.helper.make_node("Cast", [wide + ".half"], [wide], name=wide + ".widen", to=1))
    nodes = casts + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, folder / "yolov8n-half.onnx")
    entries.append(describe(folder, "yolov8n-half", "yolov8", [(1, 3, SIZE, SIZE)]))

    (folder / "exports.json").write_text(json.dumps(entries, indent=1))


main()
