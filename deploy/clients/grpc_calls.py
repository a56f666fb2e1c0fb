"""The calls of `tritonclient.grpc`."""

import base64
import json
import os
import queue
import threading
import time

import numpy
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shared_memory
from samples import (EXPECTED, MODEL, NAMES, OF_INPUT_SIZE, check_expected, encoded, image_input, pixels, refused,
                     tensor)
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

PATIENCE = 60


def health(client) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("nothing") and not client.is_model_ready(MODEL, "99")


def server_metadata(client) -> None:
    metadata = client.get_server_metadata()
    assert metadata.name == "detectd" and metadata.version
    wanted = {"binary_tensor_data", "statistics", "model_repository", "model_configuration", "system_shared_memory",
              "logging"}
    assert wanted <= set(metadata.extensions), metadata.extensions
    assert client.get_server_metadata(as_json=True)["name"] == "detectd"


def model_metadata(client) -> None:
    metadata = client.get_model_metadata(MODEL, as_json=True)
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["inputs"]}
    assert inputs == {"image": ("BYTES", ["-1", "1"]), "images": ("UINT8", ["-1", "-1", "-1", "3"])}, inputs
    assert [each["name"] for each in metadata["outputs"]] == ["num_detections", "boxes", "scores", "classes"]
    assert metadata["versions"] == ["1"], metadata
    refused("NOT_FOUND", "nothing", client.get_model_metadata, "nothing")


def model_config(client) -> None:
    config = client.get_model_config(MODEL, "1").config
    assert config.name == MODEL and config.backend == "onnx" and config.max_batch_size >= 1
    assert config.dynamic_batching.priority_levels == 3 and config.instance_group[0].count >= 1
    labels = json.loads(config.parameters["labels"].string_value)
    assert labels[EXPECTED[NAMES[0]]["detections"][0]["class_id"]] == EXPECTED[NAMES[0]]["detections"][0]["label"]
    refused("INVALID_ARGUMENT", "got `one`", client.get_model_config, MODEL, "one")


def repository_index(client) -> None:
    models = client.get_model_repository_index().models
    assert [(each.name, each.version, each.state) for each in models] == [(MODEL, "1", "READY")], models


def control_is_off(client) -> None:
    """Load and unload work where `repository.control` is "explicit"; repository_calls.py has them."""
    refused("INVALID_ARGUMENT", "repository.control", client.load_model, MODEL)
    refused("INVALID_ARGUMENT", "repository.control", client.unload_model, MODEL)
    assert client.is_model_ready(MODEL)


def infer_encoded(client) -> None:
    for name in NAMES:
        result = client.infer(MODEL, [image_input(name)], request_id=name)
        check_expected(result, name)
        assert result.get_response().id == name and result.get_response().model_version == "1"
    check_expected(client.infer(MODEL, [image_input(*NAMES)], model_version="1"), *NAMES)


def infer_pixels(client) -> None:
    batch = numpy.stack([pixels(OF_INPUT_SIZE)] * 3)
    check_expected(client.infer(MODEL, [tensor("images", batch, "UINT8")]), *[OF_INPUT_SIZE] * 3)
    prepared = batch.astype(numpy.float32).transpose(0, 3, 1, 2) / 255
    check_expected(client.infer(MODEL, [tensor("images", prepared, "FP32")]), *[OF_INPUT_SIZE] * 3)


def requested_outputs(client) -> None:
    outputs = [triton.InferRequestedOutput("scores"), triton.InferRequestedOutput("num_detections")]
    result = client.infer(MODEL, [image_input(NAMES[0])], outputs=outputs)
    assert [each.name for each in result.get_response().outputs] == ["scores", "num_detections"]
    assert result.as_numpy("boxes") is None and result.get_output("scores").datatype == "FP32"
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
    assert ask(timeout=60_000_000, headers={"x-caller": "test"}, client_timeout=PATIENCE) == len(expected)
    refused("INVALID_ARGUMENT", "score_treshold", ask, parameters={"score_treshold": 0.5})
    refused("INVALID_ARGUMENT", "`sequence_end`", ask, sequence_id=7)


def compression(client) -> None:
    for algorithm in ("gzip", "deflate"):
        try:
            result = client.infer(MODEL, [image_input(NAMES[0])], compression_algorithm=algorithm)
            check_expected(result, NAMES[0])
        except InferenceServerException as error:
            assert algorithm == "deflate" and error.status() == "StatusCode.UNIMPLEMENTED", error


def errors(client) -> None:
    ask = lambda given, model=MODEL, **more: client.infer(model, [given], **more)
    picture = image_input(NAMES[0])
    refused("NOT_FOUND", "nothing", ask, picture, model="nothing")
    refused("NOT_FOUND", "no version 99", ask, picture, model_version="99")
    refused("INVALID_ARGUMENT", "JPEG, PNG, WebP, BMP", ask,
            tensor("image", numpy.array([b"no picture"], dtype=object), "BYTES"))
    refused("INVALID_ARGUMENT", "no input `picture`", ask,
            tensor("picture", numpy.array([encoded(NAMES[0])], dtype=object), "BYTES"))
    refused("INVALID_ARGUMENT", "FP32 [N, 3, 320, 320]", ask,
            tensor("images", numpy.zeros((1, 3, 64, 64), numpy.float32), "FP32"))
    refused("INVALID_ARGUMENT", "got INT32", ask, tensor("images", numpy.zeros((1, 4, 4, 3), numpy.int32), "INT32"))
    refused("INVALID_ARGUMENT", "no output `masks`", ask, picture, outputs=[triton.InferRequestedOutput("masks")])
    refused("INVALID_ARGUMENT", "parameters", ask, picture,
            outputs=[triton.InferRequestedOutput("scores", class_count=2)])
    refused("DEADLINE_EXCEEDED", "", ask, image_input(*NAMES * 10), client_timeout=0.001)
    refused("DEADLINE_EXCEEDED", "deadline", ask, picture, timeout=1)


def async_infer(client) -> None:
    answers = queue.Queue()
    for name in NAMES:
        client.async_infer(MODEL, [image_input(name)], callback=lambda result, error: answers.put((result, error)),
                           request_id=name)
    seen = set()
    for _ in NAMES:
        result, error = answers.get(timeout=PATIENCE)
        assert error is None, error
        name = result.get_response().id
        check_expected(result, name)
        seen.add(name)
    assert seen == set(NAMES)
    client.async_infer("nothing", [image_input(NAMES[0])], callback=lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=PATIENCE)
    assert result is None and error.status() == "StatusCode.NOT_FOUND", error


def cancel(client) -> None:
    answers = queue.Queue()
    call = client.async_infer(MODEL, [image_input(*NAMES * 10)],
                              callback=lambda result, error: answers.put((result, error)))
    call.cancel()
    result, error = answers.get(timeout=PATIENCE)
    assert result is None and error.status() == "StatusCode.CANCELLED", error


def stream(client) -> None:
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for turn in range(3):
        for name in NAMES:
            client.async_stream_infer(MODEL, [image_input(name)], request_id=f"{turn}/{name}",
                                      enable_empty_final_response=turn == 1)
    wrong = tensor("image", numpy.array([b"no picture"], dtype=object), "BYTES")
    client.async_stream_infer(MODEL, [wrong], request_id="wrong")
    seen, failures = set(), []
    for _ in range(3 * len(NAMES) + 1):
        result, error = answers.get(timeout=PATIENCE)
        if error is not None:
            failures.append(error.message())
            continue
        response = result.get_response()
        check_expected(result, response.id.split("/")[1])
        assert response.parameters["triton_final_response"].bool_param
        seen.add(response.id)
    client.stop_stream()
    assert len(seen) == 3 * len(NAMES), seen
    assert len(failures) == 1 and failures[0].startswith("[request id: wrong] INVALID_ARGUMENT"), failures


def stream_cancelled(client) -> None:
    client.start_stream(callback=lambda result, error: None)
    client.async_stream_infer(MODEL, [image_input(*NAMES)])
    client.stop_stream(cancel_requests=True)
    check_expected(client.infer(MODEL, [image_input(NAMES[0])]), NAMES[0])


def system_shared_memory(client) -> None:
    client.unregister_system_shared_memory()
    assert not client.get_system_shared_memory_status().regions
    given = serialize_byte_tensor(numpy.array([encoded(NAMES[0])], dtype=object))
    size, key = len(given.item()), f"/detectd-client-{os.getpid()}"
    output_size = 64 << 10
    memory = shared_memory.create_shared_memory_region("all", key, size + output_size)
    try:
        shared_memory.set_shared_memory_region(memory, [given])
        client.register_system_shared_memory("in", key, size)
        client.register_system_shared_memory("out", key, output_size, offset=size)
        regions = client.get_system_shared_memory_status().regions
        assert {name: (each.key, each.offset, each.byte_size) for name, each in regions.items()} == {
            "in": (key, 0, size), "out": (key, size, output_size)}
        refused("INVALID_ARGUMENT", "already", client.register_system_shared_memory, "in", key, size)
        refused("INVALID_ARGUMENT", "region `more`", client.register_system_shared_memory, "more", key, 1 << 40)
        refused("INVALID_ARGUMENT", "slash", client.register_system_shared_memory, "out of it", "/../../etc/passwd", 1)

        picture = triton.InferInput("image", [1], "BYTES")
        picture.set_shared_memory("in", size)
        boxes = triton.InferRequestedOutput("boxes")
        boxes.set_shared_memory("out", output_size - 1024, offset=1024)
        result = client.infer(MODEL, [picture], outputs=[boxes, triton.InferRequestedOutput("num_detections")])
        expected = EXPECTED[NAMES[0]]["detections"]
        assert result.as_numpy("num_detections")[0, 0] == len(expected)
        output = result.get_output("boxes")
        written = output.parameters["shared_memory_byte_size"].int64_param
        assert written == 4 * numpy.prod(output.shape)
        read = shared_memory.get_contents_as_numpy(memory, numpy.float32, list(output.shape), offset=size + 1024)
        corners = [[each["bbox"][side] for side in ("x1", "y1", "x2", "y2")] for each in expected]
        assert numpy.allclose(read[0, : len(expected)], corners, atol=0.5)

        picture.set_shared_memory("in", size + 1)
        refused("INVALID_ARGUMENT", "region `in`", client.infer, MODEL, [picture])
        client.unregister_system_shared_memory("in")
        refused("NOT_FOUND", "`in`", client.get_system_shared_memory_status, "in")
        picture.set_shared_memory("in", size)
        refused("NOT_FOUND", "`in`", client.infer, MODEL, [picture])
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        shared_memory.destroy_shared_memory_region(memory)


def cuda_shared_memory(client) -> None:
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_cuda_shared_memory()


def register_cuda_shared_memory(client) -> None:
    handle = base64.b64encode(bytes(64))
    refused("UNIMPLEMENTED", "GPU", client.register_cuda_shared_memory, "x", handle, 0, 64)


def statistics(client) -> None:
    read = lambda: client.get_inference_statistics(MODEL).model_stats[0]
    before = read()
    for _ in range(3):
        client.infer(MODEL, [image_input(NAMES[0])])
    now = read()
    assert now.inference_count - before.inference_count == 3
    sums = lambda each: (each.inference_stats.success, each.inference_stats.compute_infer, each.inference_stats.queue)
    for old, new in zip(sums(before), sums(now)):
        assert new.count - old.count == 3 and new.ns > old.ns
    assert sum(each.batch_size * each.compute_infer.count for each in now.batch_stats) == now.inference_count
    assert sum(each.compute_infer.count for each in now.batch_stats) == now.execution_count
    assert abs(now.last_inference - time.time() * 1000) < 60_000
    every = client.get_inference_statistics(as_json=True)["model_stats"]
    assert [each["name"] for each in every] == [MODEL]
    refused("NOT_FOUND", "nothing", client.get_inference_statistics, "nothing")


def trace_settings(client) -> None:
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    assert list(client.update_trace_settings(MODEL, {"trace_level": "OFF"}).settings["trace_level"].value) == ["OFF"]
    refused("UNIMPLEMENTED", "not traced", client.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]})
    refused("NOT_FOUND", "nothing", client.get_trace_settings, "nothing")


def log_settings(client, daemon) -> None:
    settings = client.get_log_settings(as_json=True)["settings"]
    assert settings["log_info"]["bool_param"] and settings["log_format"]["string_param"] == "json", settings
    wrong = tensor("image", numpy.array([b"no picture"], dtype=object), "BYTES")

    def debug_lines() -> int:
        """Each refusal is a line of the level debug."""
        before = daemon.levels["DEBUG"]
        refused("INVALID_ARGUMENT", "", client.infer, MODEL, [wrong])
        time.sleep(0.3)
        return daemon.levels["DEBUG"] - before

    assert debug_lines() == 0
    assert client.update_log_settings({"log_verbose_level": 1}).settings["log_verbose_level"].uint32_param == 1
    for _ in range(100):
        if debug_lines():
            break
    else:
        raise AssertionError("no line of the level debug came")
    assert not client.update_log_settings({"log_verbose_level": 0}).settings["log_verbose_level"].uint32_param
    assert debug_lines() == 0
    refused("INVALID_ARGUMENT", "stderr", client.update_log_settings, {"log_file": "/tmp/log"})


def many_threads(client) -> None:
    failures = []

    def work(index: int) -> None:
        try:
            for turn in range(4):
                name = NAMES[(index + turn) % len(NAMES)]
                check_expected(client.infer(MODEL, [image_input(name)]), name)
        except Exception as error:  # Told below.
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def keep_alive(address: str) -> None:
    options = triton.KeepAliveOptions(keepalive_time_ms=10_000, keepalive_timeout_ms=5_000)
    with triton.InferenceServerClient(address, keepalive_options=options) as client:
        assert client.is_server_live()


CHECKS = [
    ("is_server_live, is_server_ready, is_model_ready", "known and unknown models", health),
    ("get_server_metadata", "extensions", server_metadata),
    ("get_model_metadata", "tensors, versions", model_metadata),
    ("get_model_config", "batching, instances, labels", model_config),
    ("get_model_repository_index", "states", repository_index),
    ("infer", "encoded pictures, one and a batch", infer_encoded),
    ("infer", "pixels; the network's input", infer_pixels),
    ("infer, InferRequestedOutput", "some outputs", requested_outputs),
    ("infer", "parameters, priority, timeout, headers", options),
    ("infer", "compressed messages", compression),
    ("infer", "errors by code and message", errors),
    ("async_infer", "answers and errors", async_infer),
    ("async_infer, CallContext.cancel", "cancelled", cancel),
    ("start_stream, async_stream_infer, stop_stream", "answers and errors by id", stream),
    ("start_stream, async_stream_infer, stop_stream", "cancelled", stream_cancelled),
    ("register_system_shared_memory, get_system_shared_memory_status, unregister_system_shared_memory, "
     "set_shared_memory", "inputs, outputs, bounds", system_shared_memory),
    ("get_cuda_shared_memory_status, unregister_cuda_shared_memory", "there is none", cuda_shared_memory),
    ("get_inference_statistics", "exact counts, by batch size", statistics),
    ("get_trace_settings, update_trace_settings", "off, and refused", trace_settings),
    ("infer", "8 threads", many_threads),
]

# What the server says clearly that it does not do.
REFUSED = [
    ("load_model, unload_model", "models do not come and go here", control_is_off),
    ("register_cuda_shared_memory", "there is no GPU", register_cuda_shared_memory),
]


def check_all(report, daemon) -> None:
    with triton.InferenceServerClient(daemon.grpc) as client:
        for calls, what, function in CHECKS:
            report.check("grpc", calls, what, function, client)
        for calls, what, function in REFUSED:
            report.check("grpc", calls, what, function, client, refused=True)
        report.check("grpc", "get_log_settings, update_log_settings", "the level changes", log_settings, client, daemon)
    report.check("grpc", "KeepAliveOptions", "connects", keep_alive, daemon.grpc)
