#!/bin/sh
# Puts NVRTC, CUDA's run-time compiler, into .nvrtc/ of the repository, taken out of the wheel on PyPI (90 MB). It compiles
# the kernels on machines without a GPU, too. Running it again does nothing.
set -eu

version=13.0.88
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
target=$root/.nvrtc

if [ -f "$target/libnvrtc.so.13" ] && [ "$(cat "$target/VERSION" 2>/dev/null)" = "$version" ]; then
    echo "NVRTC $version is in $target"
    exit 0
fi

download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
python3 -m pip download -q --no-deps --only-binary=:all: -d "$download" "nvidia-cuda-nvrtc==$version"
mkdir -p "$target"
python3 - "$download" "$target" <<'PYTHON'
import pathlib, shutil, sys, zipfile

download, target = map(pathlib.Path, sys.argv[1:])
(wheel,) = download.glob("nvidia_cuda_nvrtc-*.whl")
with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    libraries = [name for name in names if "/lib/libnvrtc" in name and ".alt." not in name]
    licence = [name for name in names if name.endswith("licenses/License.txt")]
    if len(libraries) != 2:
        sys.exit(f"setup-nvrtc.sh: expected libnvrtc and libnvrtc-builtins in the wheel, found {libraries}")
    for name in libraries + licence:
        # Not in place: a running program may have the old one open.
        output = target / name.split("/")[-1]
        part = output.with_name(output.name + ".part")
        with archive.open(name) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        part.replace(output)
PYTHON
echo "$version" > "$target/VERSION"
echo "NVRTC $version is in $target"
