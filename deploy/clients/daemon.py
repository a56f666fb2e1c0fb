"""A daemon on free ports of the loopback interface, and its log."""

import collections
import json
import subprocess
import threading
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent / "models"


class Daemon:
    """Runs `detectd serve` for as long as the `with` block, on the bundled models unless others are named."""

    def __init__(self, binary: str, *settings: str, models: Path = MODELS):
        flags = [flag for setting in settings for flag in ("--set", setting)]
        command = [binary, "serve", "--repository", str(models), "--log-format", "json"]
        command += ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", *flags]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._serving = threading.Event()
        self.levels = collections.Counter()
        self.last_lines = collections.deque(maxlen=20)
        self.grpc = self.http = None
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self) -> None:
        for line in self._process.stderr:
            self.last_lines.append(line.rstrip())
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            self.levels[entry.get("level")] += 1
            if entry.get("message") == "serving":
                self.grpc, self.http = entry["grpc"], entry["http"]
                self._serving.set()
        self._serving.set()

    def __enter__(self) -> "Daemon":
        if not self._serving.wait(timeout=120) or self.grpc is None:
            self._process.kill()
            raise SystemExit("the daemon does not serve:\n" + "\n".join(self.last_lines))
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
