#!/bin/sh
# The public clients against a real daemon with the bundled model: sets up a Python environment in .venv-clients, builds
# the daemon and runs test_tritonclient.py. PYTHON names the interpreter, python3 unless set. Without one, or where pip
# has no way to the clients, the tests are skipped, which the output says.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "test-clients: SKIPPED, there is no $python with venv"
    echo '{"passed": 0, "failed": 0, "skipped": true}'
    exit 0
fi
venv=.venv-clients
if ! [ -f "$venv/complete" ] || ! cmp -s deploy/clients/requirements.txt "$venv/complete"; then
    echo "setting up $venv (about 60 MB from PyPI)" >&2
    "$python" -m venv "$venv"
    if ! "$venv/bin/pip" install --quiet --disable-pip-version-check -r deploy/clients/requirements.txt; then
        echo "test-clients: SKIPPED, pip cannot install the clients"
        echo '{"passed": 0, "failed": 0, "skipped": true}'
        exit 0
    fi
    cp deploy/clients/requirements.txt "$venv/complete"
fi
cargo build --quiet -p detectd-serve --bin detectd
daemon=${CARGO_TARGET_DIR:-target}/debug/detectd
exec "$venv/bin/python" deploy/clients/test_tritonclient.py "$daemon"
