#!/bin/sh
# Builds what `make gpu` runs into target/gpu/: programs that need no cargo where they run. The program for libtorch is built
# where libtorch is set up (LIBTORCH).
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
cd "$root"
target=$root/target/gpu
mkdir -p "$target"

# The path of the one program that a build makes.
program() {
    cargo "$@" --message-format=json-render-diagnostics | python3 -c '
import json, sys
found = [json.loads(line).get("executable") for line in sys.stdin if line.startswith("{")]
print([path for path in found if path][-1])'
}

install() {
    cp "$1" "$target/$2.part"
    strip "$target/$2.part" 2>/dev/null || true
    mv "$target/$2.part" "$target/$2"
}

install "$(program build --release -p detectd-cuda --example gpu)" gpu
install "$(program test --release --no-run -p detectd-cuda --test device)" device
if [ -n "${LIBTORCH:-}" ] && [ -d "$LIBTORCH" ]; then
    install "$(program test --release --no-run -p detectd-libtorch --features libtorch --test cuda)" cuda
else
    echo "libtorch is not set up: its tests on a GPU are not built (make libtorch)"
fi
ls -l "$target"
