#!/bin/sh
# Runs what build.sh has built, on any machine: from the repository's root, or a copy of it with target/gpu. Looks for the
# libraries of PyTorch and of CUDA's run-time compiler where a Python installation has them.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
cd "$root"
folders=$(python3 - <<'PYTHON' 2>/dev/null || true
import glob, os, site, sys
for base in {*site.getsitepackages(), *sys.path}:
    for folder in glob.glob(os.path.join(base, "torch/lib")) + glob.glob(os.path.join(base, "nvidia/*/lib")):
        print(folder)
PYTHON
)
search=$(printf '%s' "$folders" | tr '\n' ':')
if [ -d "$root/.nvrtc" ]; then search="$search:$root/.nvrtc"; fi
if [ -n "${LIBTORCH:-}" ]; then search="$search:$LIBTORCH/lib"; fi
LD_LIBRARY_PATH="$search:${LD_LIBRARY_PATH:-}"
export LD_LIBRARY_PATH
exec target/gpu/gpu "$@"
