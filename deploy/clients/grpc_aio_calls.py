"""The calls of `tritonclient.grpc.aio`; those that only describe are covered by their twins without asyncio."""

import asyncio

import tritonclient.grpc.aio as triton
from samples import MODEL, NAMES, check_expected, image_input
from tritonclient.utils import InferenceServerException


async def infer(client) -> None:
    results = await asyncio.gather(*(client.infer(MODEL, [image_input(name)]) for name in NAMES))
    for name, result in zip(NAMES, results):
        check_expected(result, name)
    try:
        await client.infer("nothing", [image_input(NAMES[0])])
    except InferenceServerException as error:
        assert error.status() == "StatusCode.NOT_FOUND", error
    else:
        raise AssertionError("it was not refused")


async def stream(client) -> None:
    async def requests():
        for name in NAMES:
            yield {"model_name": MODEL, "inputs": [image_input(name)], "request_id": name}

    seen = set()
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        check_expected(result, result.get_response().id)
        seen.add(result.get_response().id)
    assert seen == set(NAMES)


async def describe(client) -> None:
    assert await client.is_server_ready() and await client.is_model_ready(MODEL)
    assert (await client.get_model_config(MODEL)).config.name == MODEL
    assert (await client.get_model_metadata(MODEL)).name == MODEL
    assert (await client.get_inference_statistics(MODEL)).model_stats[0].inference_count > 0
    assert (await client.get_model_repository_index()).models[0].state == "READY"


def check_all(report, daemon) -> None:
    def run(function) -> None:
        async def connected() -> None:
            async with triton.InferenceServerClient(daemon.grpc) as client:
                await function(client)

        asyncio.run(connected())

    report.check("grpc.aio", "aio.infer", "answers and errors", run, infer)
    report.check("grpc.aio", "aio.stream_infer", "answers by id", run, stream)
    calls = ("is_server_ready, is_model_ready, get_model_config, get_model_metadata, get_inference_statistics, "
             "get_model_repository_index")
    report.check("grpc.aio", ", ".join(f"aio.{call}" for call in calls.split(", ")), "answers", run, describe)
