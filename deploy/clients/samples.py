"""The bundled pictures, what is to be found in them, requests for them, and refusals."""

import json

import numpy
from daemon import MODELS
from PIL import Image
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

MODEL = "workbench"
GOLDEN = MODELS / MODEL / "1" / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
NAMES = sorted(EXPECTED)
# As large as the network's input, so that resizing changes nothing.
OF_INPUT_SIZE = "bench-320x320.png"


def encoded(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def pixels(name: str) -> numpy.ndarray:
    return numpy.asarray(Image.open(GOLDEN / name).convert("RGB"))


def tensor(name: str, values: numpy.ndarray, datatype: str, client=grpc, **options):
    """An input for one of the modules `tritonclient.grpc` and `tritonclient.http`."""
    given = client.InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values, **options)
    return given


def image_input(*names: str, client=grpc):
    return tensor("image", numpy.array([encoded(name) for name in names], dtype=object), "BYTES", client)


def refused(status: str, words: str, call, *arguments, **options) -> None:
    """The call fails with this status, a name of gRPC's or a number of HTTP's, and a message that has these words."""
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        assert error.status() in (status, f"StatusCode.{status}"), f"{error.status()}: {error.message()}"
        assert words in error.message(), error.message()
        return
    raise AssertionError("it was not refused")


def check_expected(result, *names: str) -> None:
    """The answer's boxes are those recorded with the model."""
    count, boxes, scores, classes = (
        result.as_numpy(output) for output in ("num_detections", "boxes", "scores", "classes")
    )
    assert boxes.dtype == scores.dtype == numpy.float32 and count.dtype == classes.dtype == numpy.int32
    places = scores.shape[1]
    assert count.shape == (len(names), 1) and boxes.shape == (len(names), places, 4), boxes.shape
    for index, name in enumerate(names):
        expected = EXPECTED[name]["detections"]
        found = int(count[index, 0])
        assert found == len(expected) > 0, f"{name}: {found} boxes, expected {len(expected)}"
        assert list(classes[index, :found]) == [each["class_id"] for each in expected], name
        assert numpy.allclose(scores[index, :found], [each["score"] for each in expected], atol=1e-3), name
        corners = [[each["bbox"][side] for side in ("x1", "y1", "x2", "y2")] for each in expected]
        assert numpy.allclose(boxes[index, :found], corners, atol=0.5), name
        assert not boxes[index, found:].any() and (classes[index, found:] == -1).all(), f"{name}: padding"
