"""The calls of `tritonclient.http`."""

import json
import os
import queue
import threading
import time
import urllib.request

import numpy
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shared_memory
from samples import (EXPECTED, MODEL, NAMES, OF_INPUT_SIZE, check_expected, encoded, pixels, refused)
from samples import image_input as image_input_of
from samples import tensor as tensor_of
from tritonclient.utils import serialize_byte_tensor

CALLERS = 8


def tensor(name: str, values: numpy.ndarray, datatype: str, **options):
    return tensor_of(name, values, datatype, triton, **options)


def image_input(*names: str):
    return image_input_of(*names, client=triton)


def not_an_image():
    return tensor("image", numpy.array([b"no picture"], dtype=object), "BYTES")


def health(client) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("nothing") and not client.is_model_ready(MODEL, "99")


def server_metadata(client) -> None:
    metadata = client.get_server_metadata()
    assert metadata["name"] == "detectd" and metadata["version"]
    wanted = {"binary_tensor_data", "statistics", "model_repository", "model_configuration", "system_shared_memory",
              "logging"}
    assert wanted <= set(metadata["extensions"]), metadata["extensions"]


def model_metadata(client) -> None:
    metadata = client.get_model_metadata(MODEL)
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["inputs"]}
    assert inputs == {"image": ("BYTES", [-1, 1]), "images": ("UINT8", [-1, -1, -1, 3])}, inputs
    assert [each["name"] for each in metadata["outputs"]] == ["num_detections", "boxes", "scores", "classes"]
    assert metadata["versions"] == ["1"], metadata
    refused("404", "nothing", client.get_model_metadata, "nothing")


def model_config(client) -> None:
    config = client.get_model_config(MODEL, "1")
    assert config["name"] == MODEL and config["backend"] == "onnx" and config["max_batch_size"] >= 1
    assert config["dynamic_batching"]["priority_levels"] == 3 and config["instance_group"][0]["count"] >= 1
    assert config["input"][0]["data_type"] == "TYPE_STRING", config["input"]
    labels = json.loads(config["parameters"]["labels"]["string_value"])
    assert labels[EXPECTED[NAMES[0]]["detections"][0]["class_id"]] == EXPECTED[NAMES[0]]["detections"][0]["label"]
    refused("404", "99", client.get_model_config, MODEL, "99")


def repository_index(client) -> None:
    models = client.get_model_repository_index()
    assert models == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}], models


def control_is_off(client) -> None:
    """Load and unload work where `repository.control` is "explicit"; repository_calls.py has them."""
    refused("400", "repository.control", client.load_model, MODEL)
    refused("400", "repository.control", client.unload_model, MODEL)
    assert client.is_model_ready(MODEL)


def infer_encoded(client) -> None:
    for name in NAMES:
        result = client.infer(MODEL, [image_input(name)], request_id=name)
        check_expected(result, name)
        assert result.get_response()["id"] == name and result.get_response()["model_version"] == "1"
    check_expected(client.infer(MODEL, [image_input(*NAMES)], model_version="1"), *NAMES)


def infer_pixels(client) -> None:
    batch = numpy.stack([pixels(OF_INPUT_SIZE)] * 3)
    check_expected(client.infer(MODEL, [tensor("images", batch, "UINT8")]), *[OF_INPUT_SIZE] * 3)
    prepared = batch.astype(numpy.float32).transpose(0, 3, 1, 2) / 255
    check_expected(client.infer(MODEL, [tensor("images", prepared, "FP32")]), *[OF_INPUT_SIZE] * 3)


def infer_json(client) -> None:
    """Inputs and outputs as JSON, several megabytes of it."""
    names = ("num_detections", "boxes", "scores", "classes")
    outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in names]
    batch = numpy.stack([pixels(OF_INPUT_SIZE)] * 2)
    for values, datatype in ((batch, "UINT8"), (batch.astype(numpy.float32).transpose(0, 3, 1, 2) / 255, "FP32")):
        result = client.infer(MODEL, [tensor("images", values, datatype, binary_data=False)], outputs=outputs)
        check_expected(result, *[OF_INPUT_SIZE] * 2)
        assert all("data" in each for each in result.get_response()["outputs"])
    text = tensor("image", numpy.array(["no picture"], dtype=object), "BYTES", binary_data=False)
    refused("400", "JPEG, PNG, WebP, BMP", client.infer, MODEL, [text])


def requested_outputs(client) -> None:
    outputs = [triton.InferRequestedOutput("scores", binary_data=True),
               triton.InferRequestedOutput("num_detections", binary_data=False)]
    result = client.infer(MODEL, [image_input(NAMES[0])], outputs=outputs)
    assert [each["name"] for each in result.get_response()["outputs"]] == ["scores", "num_detections"]
    assert result.as_numpy("boxes") is None and result.get_output("scores")["datatype"] == "FP32"
    assert "data" not in result.get_output("scores") and "data" in result.get_output("num_detections")
    assert result.as_numpy("num_detections")[0, 0] == len(EXPECTED[NAMES[0]]["detections"])


def options(client) -> None:
    expected = [each["score"] for each in EXPECTED[NAMES[0]]["detections"]]
    threshold = (expected[0] + expected[1]) / 2
    ask = lambda **more: client.infer(MODEL, [image_input(NAMES[0])], **more).as_numpy("num_detections")[0, 0]
    assert ask(parameters={"score_threshold": threshold}) == 1
    assert ask(parameters={"max_detections": 2}) == 2
    label = EXPECTED[NAMES[0]]["detections"][0]["label"]
    of_label = sum(each["label"] == label for each in EXPECTED[NAMES[0]]["detections"])
    assert ask(parameters={"class_labels": label}) == of_label
    assert ask(parameters={"nms": "greedy", "nms_iou_threshold": 0.5, "class_agnostic": True}, priority=1) > 0
    assert ask(timeout=60_000_000, headers={"x-caller": "test"}, query_params={"caller": "test"}) == len(expected)
    refused("400", "score_treshold", ask, parameters={"score_treshold": 0.5})
    refused("400", "`sequence_end`", ask, sequence_id=7)


def compression(client) -> None:
    for asked in ("gzip", "deflate", None):
        for answered in ("gzip", "deflate", None):
            result = client.infer(MODEL, [image_input(NAMES[0])], request_compression_algorithm=asked,
                                  response_compression_algorithm=answered)
            check_expected(result, NAMES[0])


def errors(client) -> None:
    ask = lambda given, model=MODEL, **more: client.infer(model, [given], **more)
    picture = image_input(NAMES[0])
    refused("404", "nothing", ask, picture, model="nothing")
    refused("404", "no version 99", ask, picture, model_version="99")
    refused("400", "JPEG, PNG, WebP, BMP", ask, not_an_image())
    refused("400", "no input `picture`", ask,
            tensor("picture", numpy.array([encoded(NAMES[0])], dtype=object), "BYTES"))
    refused("400", "FP32 [N, 3, 320, 320]", ask, tensor("images", numpy.zeros((1, 3, 64, 64), numpy.float32), "FP32"))
    refused("400", "got INT32", ask, tensor("images", numpy.zeros((1, 4, 4, 3), numpy.int32), "INT32"))
    refused("400", "no output `masks`", ask, picture, outputs=[triton.InferRequestedOutput("masks")])
    refused("400", "parameters", ask, picture, outputs=[triton.InferRequestedOutput("scores", class_count=2)])
    refused("504", "deadline", ask, picture, timeout=1)


def async_infer(client) -> None:
    calls = [(name, client.async_infer(MODEL, [image_input(name)], request_id=name)) for name in NAMES]
    for name, call in calls:
        result = call.get_result(timeout=60)
        check_expected(result, name)
        assert result.get_response()["id"] == name
    refused("404", "nothing", client.async_infer("nothing", [image_input(NAMES[0])]).get_result)


def own_transport(client, address: str) -> None:
    """The request's body and the answer's, carried by another HTTP client."""
    body, header_length = triton.InferenceServerClient.generate_request_body([image_input(NAMES[0])])
    headers = {"Inference-Header-Content-Length": str(header_length)}
    request = urllib.request.Request(f"http://{address}/v2/models/{MODEL}/infer", body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        length = int(response.headers["Inference-Header-Content-Length"])
        result = triton.InferenceServerClient.parse_response_body(response.read(), header_length=length)
    check_expected(result, NAMES[0])


def system_shared_memory(client) -> None:
    client.unregister_system_shared_memory()
    assert client.get_system_shared_memory_status() == []
    given = serialize_byte_tensor(numpy.array([encoded(NAMES[0])], dtype=object))
    size, key = len(given.item()), f"/detectd-http-client-{os.getpid()}"
    output_size = 64 << 10
    memory = shared_memory.create_shared_memory_region("all", key, size + output_size)
    try:
        shared_memory.set_shared_memory_region(memory, [given])
        client.register_system_shared_memory("in", key, size)
        client.register_system_shared_memory("out", key, output_size, offset=size)
        regions = client.get_system_shared_memory_status()
        assert {each["name"]: (each["key"], each["offset"], each["byte_size"]) for each in regions} == {
            "in": (key, 0, size), "out": (key, size, output_size)}
        refused("400", "already", client.register_system_shared_memory, "in", key, size)
        refused("400", "region `more`", client.register_system_shared_memory, "more", key, 1 << 40)
        refused("400", "slash", client.register_system_shared_memory, "out of it", "/../../etc/passwd", 1)

        picture = triton.InferInput("image", [1], "BYTES")
        picture.set_shared_memory("in", size)
        boxes = triton.InferRequestedOutput("boxes")
        boxes.set_shared_memory("out", output_size - 1024, offset=1024)
        result = client.infer(MODEL, [picture], outputs=[boxes, triton.InferRequestedOutput("num_detections")])
        expected = EXPECTED[NAMES[0]]["detections"]
        assert result.as_numpy("num_detections")[0, 0] == len(expected)
        output = result.get_output("boxes")
        assert output["parameters"]["shared_memory_byte_size"] == 4 * numpy.prod(output["shape"])
        read = shared_memory.get_contents_as_numpy(memory, numpy.float32, output["shape"], offset=size + 1024)
        corners = [[each["bbox"][side] for side in ("x1", "y1", "x2", "y2")] for each in expected]
        assert numpy.allclose(read[0, : len(expected)], corners, atol=0.5)

        picture.set_shared_memory("in", size + 1)
        refused("400", "region `in`", client.infer, MODEL, [picture])
        client.unregister_system_shared_memory("in")
        refused("404", "`in`", client.get_system_shared_memory_status, "in")
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status() == []
    finally:
        shared_memory.destroy_shared_memory_region(memory)


def cuda_shared_memory(client) -> None:
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_cuda_shared_memory()


def register_cuda_shared_memory(client) -> None:
    refused("501", "GPU", client.register_cuda_shared_memory, "x", b"AAAA", 0, 64)


def statistics(client) -> None:
    read = lambda: client.get_inference_statistics(MODEL)["model_stats"][0]
    before = read()
    for _ in range(3):
        client.infer(MODEL, [image_input(NAMES[0])])
    now = read()
    assert now["inference_count"] - before["inference_count"] == 3
    for name in ("success", "compute_infer", "queue"):
        old, new = (each["inference_stats"][name] for each in (before, now))
        assert new["count"] - old["count"] == 3 and new["ns"] > old["ns"], name
    batches = [(each["batch_size"], each["compute_infer"]["count"]) for each in now["batch_stats"]]
    assert sum(size * count for size, count in batches) == now["inference_count"]
    assert sum(count for _, count in batches) == now["execution_count"]
    assert abs(now["last_inference"] - time.time() * 1000) < 60_000
    assert [each["name"] for each in client.get_inference_statistics()["model_stats"]] == [MODEL]
    refused("404", "nothing", client.get_inference_statistics, "nothing")


def trace_settings(client) -> None:
    assert client.get_trace_settings() == {"trace_level": ["OFF"]}
    assert client.update_trace_settings(MODEL, {"trace_level": "OFF"})["trace_level"] == ["OFF"]
    refused("501", "not traced", client.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]})
    refused("404", "nothing", client.get_trace_settings, "nothing")


def log_settings(client) -> None:
    settings = client.get_log_settings()
    assert settings["log_info"] is True and settings["log_format"] == "json", settings
    assert client.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
    assert client.update_log_settings({"log_verbose_level": 0})["log_verbose_level"] == 0
    refused("400", "stderr", client.update_log_settings, {"log_file": "/tmp/log"})


def many_callers(address: str) -> None:
    """A client each: the client is for one thread."""
    failures = queue.Queue()

    def work(index: int) -> None:
        try:
            with triton.InferenceServerClient(address) as client:
                for turn in range(4):
                    name = NAMES[(index + turn) % len(NAMES)]
                    check_expected(client.infer(MODEL, [image_input(name)]), name)
        except Exception as error:  # Told below.
            failures.put(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures.empty(), failures.get()


CHECKS = [
    ("is_server_live, is_server_ready, is_model_ready", "known and unknown models", health),
    ("get_server_metadata", "extensions", server_metadata),
    ("get_model_metadata", "tensors, versions", model_metadata),
    ("get_model_config", "batching, instances, labels", model_config),
    ("get_model_repository_index", "states", repository_index),
    ("infer", "encoded pictures, one and a batch", infer_encoded),
    ("infer", "pixels; the network's input", infer_pixels),
    ("infer", "inputs and outputs as JSON", infer_json),
    ("infer, InferRequestedOutput", "some outputs, binary and JSON", requested_outputs),
    ("infer", "parameters, priority, timeout, headers", options),
    ("infer", "gzip and deflate, both ways", compression),
    ("infer", "errors by code and message", errors),
    ("async_infer", "answers and errors", async_infer),
    ("register_system_shared_memory, get_system_shared_memory_status, unregister_system_shared_memory, "
     "set_shared_memory", "inputs, outputs, bounds", system_shared_memory),
    ("get_cuda_shared_memory_status, unregister_cuda_shared_memory", "there is none", cuda_shared_memory),
    ("get_inference_statistics", "exact counts, by batch size", statistics),
    ("get_trace_settings, update_trace_settings", "off, and refused", trace_settings),
    ("get_log_settings, update_log_settings", "read and changed", log_settings),
]

# What the server says clearly that it does not do.
REFUSED = [
    ("load_model, unload_model", "models do not come and go here", control_is_off),
    ("register_cuda_shared_memory", "there is no GPU", register_cuda_shared_memory),
]


def check_all(report, daemon) -> None:
    with triton.InferenceServerClient(daemon.http, concurrency=CALLERS, network_timeout=120) as client:
        for calls, what, function in CHECKS:
            report.check("http", calls, what, function, client)
        for calls, what, function in REFUSED:
            report.check("http", calls, what, function, client, refused=True)
        report.check("http", "generate_request_body, parse_response_body", "over urllib", own_transport, client,
                     daemon.http)
    report.check("http", "infer", f"{CALLERS} threads", many_callers, daemon.http)
