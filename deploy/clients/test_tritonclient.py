"""Every call of the Python package `tritonclient` against a daemon: test_tritonclient.py DAEMON

`make test-clients` runs it in an environment of its own. It prints a table and, as the last line, one JSON object.
"""

import sys
import tempfile
from pathlib import Path

import grpc_aio_calls
import grpc_calls
import http_aio_calls
import http_calls
import repository_calls
import wire_definitions
from daemon import Daemon
from report import Report


def main() -> int:
    report = Report()
    wire_definitions.check_all(report)
    with Daemon(sys.argv[1], "server.shared_memory=true") as daemon:
        grpc_calls.check_all(report, daemon)
        grpc_aio_calls.check_all(report, daemon)
        http_calls.check_all(report, daemon)
        http_aio_calls.check_all(report, daemon)
    with tempfile.TemporaryDirectory() as folder:
        models = repository_calls.models(Path(folder))
        with Daemon(sys.argv[1], "repository.control=explicit", "repository.models=workbench,network",
                    models=models) as daemon:
            repository_calls.check_all(report, daemon)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
