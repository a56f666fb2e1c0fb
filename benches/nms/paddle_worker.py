"""Times Paddle's matrix_nms on request.

Reads one JSON object a line from standard input: folder (boxes.f32 and scores.f32, row-major), boxes, classes, args,
rounds. Answers with one JSON object a line: seconds of each round, and the kept scores of the last. The first line says
which version runs.
"""

import json
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import numpy  # noqa: E402
import paddle  # noqa: E402

paddle.set_device("cpu")
print(json.dumps({"version": paddle.__version__}), flush=True)
loaded = None
for line in sys.stdin:
    request = json.loads(line)
    if request["folder"] != loaded:
        folder, loaded = Path(request["folder"]), request["folder"]
        boxes = numpy.fromfile(folder / "boxes.f32", numpy.float32).reshape(1, request["boxes"], 4)
        scores = numpy.fromfile(folder / "scores.f32", numpy.float32).reshape(1, request["classes"], request["boxes"])
        boxes, scores = paddle.to_tensor(boxes), paddle.to_tensor(scores)
    seconds = []
    for _ in range(request["rounds"]):
        start = time.perf_counter()
        out, _, _ = paddle.vision.ops.matrix_nms(boxes, scores, **request["args"])
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "scores": out.numpy()[:, 1].tolist()}), flush=True)
