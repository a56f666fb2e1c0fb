"""The calls of `tritonclient.http.aio`; those that only describe are covered by their twins without asyncio."""

import asyncio

import tritonclient.http as triton_http
import tritonclient.http.aio as triton
from samples import MODEL, NAMES, check_expected
from samples import image_input as image_input_of
from tritonclient.utils import InferenceServerException


def image_input(name: str):
    return image_input_of(name, client=triton_http)


async def infer(client) -> None:
    results = await asyncio.gather(*(client.infer(MODEL, [image_input(name)]) for name in NAMES * 3))
    for name, result in zip(NAMES * 3, results):
        check_expected(result, name)
    try:
        await client.infer("nothing", [image_input(NAMES[0])])
    except InferenceServerException as error:
        assert error.status() == "404" and "nothing" in error.message(), error
    else:
        raise AssertionError("it was not refused")


async def compression(client) -> None:
    for algorithm in ("gzip", "deflate"):
        result = await client.infer(MODEL, [image_input(NAMES[0])], request_compression_algorithm=algorithm,
                                    response_compression_algorithm=algorithm)
        check_expected(result, NAMES[0])


async def cancel(client) -> None:
    call = asyncio.create_task(client.infer(MODEL, [image_input(NAMES[0])]))
    await asyncio.sleep(0.01)
    call.cancel()
    try:
        await call
    except asyncio.CancelledError:
        pass
    check_expected(await client.infer(MODEL, [image_input(NAMES[0])]), NAMES[0])


async def describe(client) -> None:
    assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready(MODEL)
    assert (await client.get_server_metadata())["name"] == "detectd"
    assert (await client.get_model_config(MODEL))["name"] == MODEL
    assert (await client.get_model_metadata(MODEL))["name"] == MODEL
    assert (await client.get_inference_statistics(MODEL))["model_stats"][0]["inference_count"] > 0
    assert (await client.get_model_repository_index())[0]["state"] == "READY"
    assert await client.get_system_shared_memory_status() == []
    assert (await client.get_trace_settings())["trace_level"] == ["OFF"]
    assert (await client.get_log_settings())["log_info"] is True


def check_all(report, daemon) -> None:
    def run(function) -> None:
        async def connected() -> None:
            async with triton.InferenceServerClient(daemon.http) as client:
                await function(client)

        asyncio.run(connected())

    report.check("http.aio", "aio.infer", "answers and errors, 15 at once", run, infer)
    report.check("http.aio", "aio.infer", "gzip and deflate, both ways", run, compression)
    report.check("http.aio", "aio.infer", "cancelled", run, cancel)
    calls = ("is_server_live, is_server_ready, is_model_ready, get_server_metadata, get_model_config, "
             "get_model_metadata, get_inference_statistics, get_model_repository_index, "
             "get_system_shared_memory_status, get_trace_settings, get_log_settings")
    report.check("http.aio", ", ".join(f"aio.{call}" for call in calls.split(", ")), "answers", run, describe)
