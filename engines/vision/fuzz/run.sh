#!/bin/sh
# Fuzzes a target: run.sh decode|head [RUNS]. Needs a nightly toolchain and `cargo install cargo-fuzz`. The test pictures
# seed the corpus of `decode`. A run that takes more memory or time than any small picture needs is a finding.
set -eu
cd "$(dirname "$0")/.."
target=${1:-decode}
runs=${2:-1000000}
corpus=fuzz/corpus/$target
mkdir -p "$corpus"
if [ "$target" = decode ]; then
    for picture in tests/images/*.jpg tests/images/*.png tests/images/*.webp tests/images/*.bmp; do
        cp "$picture" "$corpus/"
    done
fi
exec cargo +nightly fuzz run "$target" "$corpus" -- -runs="$runs" -max_len=16384 -timeout=10 -rss_limit_mb=1024 \
    -malloc_limit_mb=128
