#!/usr/bin/env bash
# Puts libtorch 2.11.0 (headers and CPU libraries) into .libtorch/ in the repository root.
#
# The libraries come out of the torch wheel on PyPI, with the two CUDA run-time libraries that libtorch_cpu is linked
# against; 531 MB are downloaded, 0.5 GB stay on disk. Running it again with a complete .libtorch/ does nothing.
# Build afterwards with LIBTORCH="$PWD/.libtorch/torch".
set -euo pipefail

torch_version=2.11.0
runtime_version=13.0.96
cupti_version=13.0.85

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="$root/.libtorch"
wanted="torch $torch_version, cuda-runtime $runtime_version, cuda-cupti $cupti_version"

if [[ -f "$target/versions" && "$(cat "$target/versions")" == "$wanted" ]]; then
    echo "libtorch is in place: $wanted ($target)"
    exit 0
fi

case "$(uname -sm)" in
    "Linux x86_64") ;;
    *) echo "setup.sh: libtorch is set up from wheels for Linux x86_64, this is $(uname -sm)" >&2; exit 1 ;;
esac

downloads="$(mktemp -d "${TMPDIR:-/tmp}/libtorch.XXXXXX")"
trap 'rm -rf "$downloads"' EXIT

# No --platform: the tag of the cupti wheel does not match any single one.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    -d "$downloads" "torch==$torch_version" "nvidia-cuda-runtime==$runtime_version" "nvidia-cuda-cupti==$cupti_version"

rm -rf "$target"
python3 - "$downloads" "$target" "$torch_version" <<'PYTHON'
import pathlib
import re
import sys
import zipfile

downloads, target, wanted_version = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
wanted = re.compile(
    r"torch/include/.*"
    r"|torch/version\.py"
    r"|torch/lib/lib(c10|torch|torch_cpu|gomp)[^/]*\.so[^/]*"
    r"|nvidia/cu13/lib/lib(cudart|cupti)\.so[^/]*"
)
for wheel in sorted(downloads.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if wanted.fullmatch(name) and not name.endswith("/"):
                archive.extract(name, target)

version = re.search(r"__version__ = '([^']+)'", (target / "torch/version.py").read_text()).group(1)
if version.split("+")[0] != wanted_version:
    sys.exit(f"setup.sh: the wheel holds torch {version}, expected {wanted_version}")
for library in ["libc10.so", "libtorch.so", "libtorch_cpu.so"]:
    if not (target / "torch/lib" / library).is_file():
        sys.exit(f"setup.sh: {library} is missing from the torch wheel")
for library in ["libcudart", "libcupti"]:
    if not list((target / "nvidia/cu13/lib").glob(library + ".so*")):
        sys.exit(f"setup.sh: {library} is missing from the nvidia wheels")
PYTHON

echo "$wanted" > "$target/versions"
echo "libtorch is ready: $wanted ($target)"
