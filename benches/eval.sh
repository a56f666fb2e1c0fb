#!/usr/bin/env bash
# mAP of the bundled detector on 1,000 held-out scenes: the network on libtorch, the embedded engine, the daemon. The
# three share the scenes and the code that scores them, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

weights=${WEIGHTS:-deploy/training/workbench.safetensors}
count=${COUNT:-1000}
libtorch=${LIBTORCH:-$PWD/.libtorch/torch}
result=$(mktemp)
trap 'rm -f "$result"' EXIT

LIBTORCH="$libtorch" LD_LIBRARY_PATH="$libtorch/lib:${LD_LIBRARY_PATH:-}" \
    cargo run --release --quiet -p detectd-train --features libtorch -- \
    evaluate --weights "$weights" --count "$count" --json > "$result"
cargo run --release --quiet -p detectd-benches --bin eval -- --count "$count" --network "$result"
