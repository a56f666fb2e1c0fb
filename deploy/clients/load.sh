#!/bin/sh
# Public load generators against a real daemon with the bundled model; load_test.py says which, and how they are had.
# REQUESTS sets how many requests each sends. Where there is no Python, the output says that it was skipped.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
if ! "$python" --version >/dev/null 2>&1; then
    echo "load-clients: SKIPPED, there is no $python"
    echo '{"passed": 0, "failed": 0, "skipped": true}'
    exit 0
fi
if [ -z "${DAEMON:-}" ]; then
    cargo build --quiet --release -p detectd-serve --bin detectd
    DAEMON=${CARGO_TARGET_DIR:-target}/release/detectd
fi
exec "$python" deploy/clients/load_test.py "$DAEMON" "${REQUESTS:-200}"
