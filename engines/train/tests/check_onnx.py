"""Checks what examples/onnx_cases.rs has written: `check_onnx.py FOLDER`, with numpy, onnx and onnxruntime installed.

Every file must pass ONNX's own checker, shape inference included, and ONNX Runtime must answer as libtorch does.
"""

import pathlib
import sys

import numpy
import onnx
import onnxruntime

folder = pathlib.Path(sys.argv[1])
files = sorted(folder.glob("*.onnx"))
if not files:
    sys.exit(f"{folder} holds no .onnx files")
worst_of_all = 0.0
for path in files:
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pictures = numpy.load(folder / f"{path.stem}-input.npy")
    answers = session.run(None, {"images": pictures})
    worst = 0.0
    for index, answer in enumerate(answers):
        expected = numpy.load(folder / f"{path.stem}-output{index}.npy")
        if answer.shape != expected.shape:
            sys.exit(f"{path.name}: output {index} is {answer.shape}, expected {expected.shape}")
        # Absolute up to 1, relative above: boxes are pixels.
        worst = max(worst, float((numpy.abs(answer - expected) / numpy.maximum(1, numpy.abs(expected))).max()))
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, largest difference {worst:.1e}")
    worst_of_all = max(worst_of_all, worst)
print(f"{len(files)} files, largest difference {worst_of_all:.1e}")
if worst_of_all >= 1e-4:
    sys.exit("the difference is too large")
