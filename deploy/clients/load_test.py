"""Public load generators against a daemon, over gRPC and HTTP: load_test.py DAEMON [REQUESTS]

`make load-clients` runs it. It uses those of ghz, hey and perf_analyzer that are on the PATH, and prints a table and, as
the last line, one JSON object. ghz and hey are had by

    go install github.com/bojand/ghz/cmd/ghz@latest
    go install github.com/rakyll/hey@latest

and perf_analyzer, Triton's own, from the wheel of an older client, which needs libb64 and libcudart beside it:

    pip download --no-deps tritonclient==2.41.1 nvidia-cuda-runtime-cu12 && apt-get download libb64-0d
"""

import base64
import csv
import io
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from daemon import MODELS, Daemon

MODEL = "workbench"
PICTURE = MODELS / MODEL / "1" / "golden" / "bench-480x640.jpg"
CALLERS = 4
PATIENCE = 600


def run(*command) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def percentile(times: list, share: float) -> float:
    return sorted(times)[min(int(len(times) * share), len(times) - 1)]


def raw_picture() -> bytes:
    """The picture as an element of a BYTES tensor."""
    content = PICTURE.read_bytes()
    return struct.pack("<I", len(content)) + content


def ghz(daemon, folder: Path, requests: int) -> dict:
    body = {"model_name": MODEL, "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}],
            "raw_input_contents": [base64.b64encode(raw_picture()).decode()]}
    file = folder / "ghz.json"
    file.write_text(json.dumps(body))
    # The definitions come by reflection.
    told = json.loads(run("ghz", "--insecure", "--call", "inference.GRPCInferenceService/ModelInfer", "-D", file, "-c",
                          CALLERS, "-n", requests, "-O", "json", daemon.grpc))
    latency = {each["percentage"]: each["latency"] / 1e6 for each in told["latencyDistribution"]}
    good = told["statusCodeDistribution"].get("OK", 0)
    return {"answers": good, "errors": told["count"] - good, "rate": told["rps"], "p50": latency[50],
            "p99": latency[99]}


def hey(daemon, folder: Path, requests: int) -> dict:
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": "base64"},
                        "data": [base64.b64encode(PICTURE.read_bytes()).decode()]}]}
    file = folder / "hey.json"
    file.write_text(json.dumps(body))
    told = run("hey", "-n", requests, "-c", CALLERS, "-t", 60, "-m", "POST", "-T", "application/json", "-D", file, "-o",
               "csv", f"http://{daemon.http}/v2/models/{MODEL}/infer")
    rows = list(csv.DictReader(io.StringIO(told)))
    times = [float(row["response-time"]) * 1e3 for row in rows]
    good = sum(row["status-code"] == "200" for row in rows)
    last = max(float(row["offset"]) + float(row["response-time"]) for row in rows)
    return {"answers": good, "errors": requests - good, "rate": len(rows) / last, "p50": percentile(times, 0.5),
            "p99": percentile(times, 0.99)}


def perf_analyzer(protocol: str, daemon, folder: Path, requests: int) -> dict:
    """It asks for metadata, configuration and statistics as well, and repeats until its figures are stable."""
    given, told = folder / "perf_analyzer.json", folder / f"{protocol}.csv"
    image = {"b64": base64.b64encode(raw_picture()).decode(), "shape": [1]}
    given.write_text(json.dumps({"data": [{"image": image}]}))
    address = daemon.http if protocol == "http" else daemon.grpc
    run("perf_analyzer", "-m", MODEL, "-u", address, "-i", protocol, "--input-data", given, "--concurrency-range",
        CALLERS, "--measurement-mode", "count_windows", "--measurement-request-count", max(requests // 4, 1),
        "--stability-percentage", 50, "--percentile", 99, "-f", told)
    row = next(csv.DictReader(told.open()))
    # An error ends it, so that there are none here; it does not say how many requests it sent.
    return {"answers": "", "errors": 0, "rate": float(row["Inferences/Second"]), "p50": float(row["p50 latency"]) / 1e3,
            "p99": float(row["p99 latency"]) / 1e3}


RUNS = [
    ("ghz", "grpc", ghz),
    ("hey", "http", hey),
    ("perf_analyzer", "grpc", lambda *arguments: perf_analyzer("grpc", *arguments)),
    ("perf_analyzer", "http", lambda *arguments: perf_analyzer("http", *arguments)),
]


def main() -> int:
    requests = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    header = ("tool", "transport", "result", "answers", "errors", "requests/s", "p50 ms", "p99 ms")
    layout = "{:14} {:10} {:8} {:>8} {:>7} {:>11} {:>8} {:>8}"
    print(layout.format(*header))
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with tempfile.TemporaryDirectory() as folder, Daemon(sys.argv[1]) as daemon:
        for tool, transport, measure in RUNS:
            if not shutil.which(tool):
                counts["skipped"] += 1
                print(layout.format(tool, transport, "SKIPPED", "", "", "", "", "").rstrip() + "  it is not on the PATH")
                continue
            try:
                figures, reason = measure(daemon, Path(folder), requests), ""
            except Exception as error:  # Whatever goes wrong is its result.
                figures, reason = None, "  " + str(error).replace("\n", " ")
            good = figures is not None and figures["errors"] == 0
            counts["passed" if good else "failed"] += 1
            cells = ["", "", "", "", ""] if figures is None else [
                figures["answers"], figures["errors"], *(f"{figures[name]:.1f}" for name in ("rate", "p50", "p99"))]
            print(layout.format(tool, transport, "passed" if good else "FAILED", *cells).rstrip() + reason)
    print(json.dumps(counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
