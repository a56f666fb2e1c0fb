#!/bin/sh
# Puts the library of ONNX Runtime into .onnxruntime/ of the repository, taken out of the wheel on PyPI (24 MB).
# Running it again does nothing.
set -eu

# Any version from 1.24 on has the interface (api-24) that the crate is built for.
version=1.24.4
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
target=$root/.onnxruntime

if [ -f "$target/libonnxruntime.so" ] && [ "$(cat "$target/VERSION" 2>/dev/null)" = "$version" ]; then
    echo "ONNX Runtime $version is in $target"
    exit 0
fi

download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
python3 -m pip download -q --no-deps --only-binary=:all: -d "$download" "onnxruntime==$version"
mkdir -p "$target"
python3 - "$download" "$target" <<'PYTHON'
import pathlib, shutil, sys, zipfile

download, target = map(pathlib.Path, sys.argv[1:])
(wheel,) = download.glob("onnxruntime-*.whl")
with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    (library,) = (name for name in names if name.startswith("onnxruntime/capi/libonnxruntime.so"))
    licence = [name for name in names if name in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt")]
    for name, output in [(library, "libonnxruntime.so")] + [(name, name.split("/")[-1]) for name in licence]:
        # Not in place: a running program may have the old one open.
        part = target / (output + ".part")
        with archive.open(name) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        part.replace(target / output)
PYTHON
echo "$version" > "$target/VERSION"
echo "ONNX Runtime $version is in $target"
