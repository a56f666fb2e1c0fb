"""Loading and unloading models, and asking a tensor model, over gRPC, HTTP and asyncio: on a daemon with
`repository.control = "explicit"`."""

import asyncio
import json
import shutil
from pathlib import Path

import numpy
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from daemon import MODELS
from samples import MODEL, NAMES, OF_INPUT_SIZE, check_expected, image_input, pixels, refused, tensor

# The bundled model's file once more, served as the plain network that it is.
NETWORK = "network"
HTTP = {"NOT_FOUND": "404", "INVALID_ARGUMENT": "400", "UNAVAILABLE": "503"}


def models(folder: Path) -> Path:
    """A repository with the bundled detector, and its network as a tensor model."""
    shutil.copytree(MODELS / MODEL, folder / MODEL)
    (folder / NETWORK / "1").mkdir(parents=True)
    shutil.copy(MODELS / MODEL / "1" / "model.onnx", folder / NETWORK / "1")
    (folder / NETWORK / "model.toml").write_text('task = "tensor"\n[instances]\ncount = 1\n')
    return folder


class Transport:
    """One of the two client modules, and how it says things."""

    def __init__(self, module):
        self.module = module
        self.is_http = module is tritonclient.http

    def status(self, code: str) -> str:
        return HTTP[code] if self.is_http else code

    def states(self, client) -> dict:
        index = client.get_model_repository_index()
        rows = index if self.is_http else [{"name": each.name, "version": each.version, "state": each.state}
                                           for each in index.models]
        return {(each["name"], each["version"]): each["state"] for each in rows}


def load_and_unload(client, transport) -> None:
    picture = image_input(NAMES[0], client=transport.module)
    client.unload_model(MODEL)
    assert transport.states(client)[MODEL, "1"] == "UNAVAILABLE" and not client.is_model_ready(MODEL)
    refused(transport.status("UNAVAILABLE"), "unloaded", client.infer, MODEL, [picture])
    client.load_model(MODEL)
    assert transport.states(client)[MODEL, "1"] == "READY" and client.is_model_ready(MODEL)
    check_expected(client.infer(MODEL, [picture]), NAMES[0])
    refused(transport.status("NOT_FOUND"), "nothing", client.load_model, "nothing")
    refused(transport.status("NOT_FOUND"), "nothing", client.unload_model, "nothing")


def load_with_config(client, transport) -> None:
    """In Triton's keys: batching changes, the model stays."""
    client.load_model(MODEL, config=json.dumps({"max_batch_size": 2, "instance_group": [{"count": 1}]}))
    config = client.get_model_config(MODEL) if transport.is_http else client.get_model_config(MODEL, as_json=True)["config"]
    assert config["max_batch_size"] == 2 and config["instance_group"][0]["count"] == 1, config
    check_expected(client.infer(MODEL, [image_input(*NAMES, client=transport.module)]), *NAMES)
    client.load_model(MODEL)


def load_with_files(client, transport) -> None:
    """A model that lies nowhere: its manifest and its file come with the call."""
    config = json.dumps({"task": "tensor", "instances": {"count": 1}})
    content = (MODELS / MODEL / "1" / "model.onnx").read_bytes()
    name = f"sent-by-{'http' if transport.is_http else 'grpc'}"
    client.load_model(name, config=config, files={"file:3/model.onnx": content})
    assert transport.states(client)[name, "3"] == "READY"
    assert client.is_model_ready(name, "3")
    client.unload_model(name)
    assert transport.states(client)[name, "3"] == "UNAVAILABLE"
    path = "file:<version>/<name>"
    refused(transport.status("INVALID_ARGUMENT"), path, client.load_model, MODEL, config="{}",
            files={"file:../model.onnx": b"x"})
    refused(transport.status("INVALID_ARGUMENT"), "model", client.load_model, MODEL, config=config,
            files={"file:1/model.onnx": b"no network"})
    check_expected(client.infer(MODEL, [image_input(NAMES[0], client=transport.module)]), NAMES[0])


def tensor_model(client, transport) -> None:
    """The network's own input and output; a batch has what its rows have."""
    metadata = client.get_model_metadata(NETWORK) if transport.is_http else client.get_model_metadata(NETWORK, as_json=True)
    (given,), (found, *_) = metadata["inputs"], metadata["outputs"]
    assert given["datatype"] == "FP32" and [int(side) for side in given["shape"]] == [-1, 3, 320, 320], metadata
    row = pixels(OF_INPUT_SIZE).astype(numpy.float32).transpose(2, 0, 1)[None] / 255
    ask = lambda values: client.infer(NETWORK, [tensor(given["name"], values, "FP32", transport.module)])
    alone, both = (ask(values).as_numpy(found["name"]) for values in (row, numpy.concatenate([row, row * 0])))
    assert alone.dtype == numpy.float32 and alone.shape[0] == 1 and both.shape[0] == 2, (alone.shape, both.shape)
    assert numpy.isfinite(both).all() and alone.std() > 0
    assert numpy.allclose(alone[0], both[0], atol=1e-3) and not numpy.allclose(both[0], both[1], atol=1e-3)
    code = transport.status("INVALID_ARGUMENT")
    refused(code, "expected FP32", client.infer, NETWORK,
            [tensor(given["name"], row.astype(numpy.float64), "FP64", transport.module)])
    refused(code, "no input `image`", client.infer, NETWORK, [image_input(NAMES[0], client=transport.module)])


async def load_and_unload_aio(client, module) -> None:
    await client.unload_model(MODEL)
    assert not await client.is_model_ready(MODEL)
    await client.load_model(MODEL)
    check_expected(await client.infer(MODEL, [image_input(NAMES[0], client=module)]), NAMES[0])


CHECKS = [
    ("load_model, unload_model", "a model leaves and comes back", load_and_unload),
    ("load_model", "with a configuration", load_with_config),
    ("load_model, unload_model", "with files", load_with_files),
    ("infer, get_model_metadata", "a tensor model", tensor_model),
]


def check_all(report, daemon) -> None:
    for name, module, address in (("grpc", tritonclient.grpc, daemon.grpc), ("http", tritonclient.http, daemon.http)):
        with module.InferenceServerClient(address) as client:
            for calls, what, function in CHECKS:
                report.check(name, calls, what, function, client, Transport(module))
        aio = module.aio

        async def connected() -> None:
            async with aio.InferenceServerClient(address) as client:
                await load_and_unload_aio(client, module)

        report.check(f"{name}.aio", "aio.load_model, aio.unload_model", "a model leaves and comes back",
                     lambda: asyncio.run(connected()))
