#!/bin/sh
# Matrix NMS beside Paddle's CPU kernel: sets up a Python environment with paddlepaddle in .venv-paddle, then runs the
# benchmark. Arguments go to the benchmark. PYTHON names the interpreter (3.9 to 3.13), python3 unless set.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-paddle
if ! [ -f "$venv/complete" ]; then
    echo "setting up $venv (about 200 MB from PyPI)" >&2
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r benches/nms/requirements.txt
    touch "$venv/complete"
fi
cargo build --release --quiet -p detectd-benches --bin bench-nms
exec cargo run --release --quiet -p detectd-benches --bin bench-nms -- --python "$venv/bin/python" "$@"
