# `make` alone lists the targets.
.DEFAULT_GOAL := help
RUNS ?= 100000
SOAK ?= 600
ROUNDS ?= 5
LIBTORCH ?= $(CURDIR)/.libtorch/torch
TORCH = LIBTORCH=$(LIBTORCH) LD_LIBRARY_PATH=$(LIBTORCH)/lib:$$LD_LIBRARY_PATH
TRAIN = $(TORCH) cargo run --release -p detectd-train --features libtorch --

.PHONY: help
help: ## Lists the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: check
check: format-check clippy docs licences ## Format, lints, docs and licences; warnings are errors

.PHONY: format-check
format-check:
	cargo fmt --all -- --check

.PHONY: clippy
clippy:
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: docs
docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

.PHONY: licences
licences:
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check licenses bans sources; \
	else echo "licences: SKIPPED, cargo-deny is not installed (cargo install --locked cargo-deny)"; fi

.PHONY: format
format: ## Formats the code
	cargo fmt --all

.PHONY: test
test: ## All tests; needs nothing but cargo
	cargo test --workspace

.PHONY: test-clients
test-clients: ## The public KServe and Triton clients against a real daemon (sets up a Python environment)
	deploy/clients/run.sh

.PHONY: load-clients
load-clients: ## Public load generators (ghz, hey, perf_analyzer), those that are installed, against a real daemon
	deploy/clients/load.sh

.PHONY: demo
demo: ## The bundled model on the bundled pictures, through a real daemon
	cargo run --release -- demo

.PHONY: proto
proto: ## Generates the Rust code of the protocol anew
	DETECTD_WRITE_PROTO=1 cargo test -p detectd-proto

.PHONY: onnxruntime
onnxruntime: ## Fetches ONNX Runtime for the feature `onnxruntime`
	engines/onnx/setup-onnxruntime.sh

.PHONY: test-onnxruntime
test-onnxruntime: onnxruntime ## The conformance suite on ONNX Runtime
	ORT_DYLIB_PATH=$(CURDIR)/.onnxruntime/libonnxruntime.so cargo test -p detectd-onnx --features onnxruntime

.PHONY: libtorch
libtorch: ## Fetches libtorch for the feature `libtorch` (531 MB)
	engines/libtorch/setup.sh

.PHONY: build-libtorch
build-libtorch: libtorch ## The daemon with libtorch as a further engine
	LIBTORCH=$(LIBTORCH) cargo build --release -p detectd-serve --features libtorch

.PHONY: test-libtorch
test-libtorch: libtorch ## The conformance suite, the networks and the training tool, on libtorch
	$(TORCH) cargo test --release -p detectd-libtorch -p detectd-train --features detectd-train/libtorch

.PHONY: nvrtc
nvrtc: ## Fetches NVRTC, CUDA's run-time compiler, for checks of the kernels without a GPU (90 MB)
	engines/cuda/setup-nvrtc.sh

.PHONY: cuda-kernels
cuda-kernels: nvrtc ## The CUDA kernels, run on the CPU against their twins and compiled for real devices; needs no GPU
	LD_LIBRARY_PATH=$(CURDIR)/.nvrtc:$$LD_LIBRARY_PATH cargo test -p detectd-cuda

.PHONY: gpu
gpu: nvrtc ## Everything that needs an NVIDIA GPU, a dry run without one: SOAK=600 (seconds)
	LIBTORCH=$(wildcard $(LIBTORCH)) benches/gpu/build.sh
	benches/gpu/run.sh --soak $(SOAK)

.PHONY: train-demo
train-demo: libtorch ## Trains the bundled detector again, into runs/ (about an hour on 2 cores)
	$(TRAIN) train --settings deploy/training/workbench.yaml --run runs/workbench $(if $(wildcard runs/workbench/last.safetensors),--resume)
	$(TRAIN) publish --weights runs/workbench/best.safetensors --models runs/models

.PHONY: eval
eval: libtorch ## mAP of the bundled detector: the network, the engine, the daemon
	benches/eval.sh

.PHONY: bench-serve
bench-serve: ## Pictures to boxes through the daemon, beside the bare engine
	cargo run --release -p detectd-benches --bin bench-serve -- --rounds $(ROUNDS)

.PHONY: bench-libtorch
bench-libtorch: libtorch ## The same on libtorch, beside the bare TorchScript loop
	LIBTORCH=$(LIBTORCH) cargo run --release -p detectd-benches --features libtorch --bin bench-libtorch -- --rounds $(ROUNDS)

.PHONY: bench-rpc
bench-rpc: ## The daemon without a model's cost, beside a bare tonic handler
	cargo run --release -p detectd-benches --bin bench-rpc -- --rounds $(ROUNDS)

SWAPS ?= 1000
.PHONY: bench-swap
bench-swap: ## Swaps models under load: SWAPS=1000, about 25 minutes
	cargo run --release -p detectd-benches --bin bench-swap -- --swaps $(SWAPS)

.PHONY: bench-nms
bench-nms: ## Matrix NMS beside Paddle's CPU kernel (sets up a Python environment)
	benches/nms/run.sh

.PHONY: load
load: ## The load generator's options
	cargo run --release -p detectd-benches --bin load -- --help

.PHONY: fuzz
fuzz: ## Fuzzes image decoding; RUNS=1000000
	engines/vision/fuzz/run.sh decode $(RUNS)

.PHONY: fuzz-all
fuzz-all: fuzz ## Fuzzes head decoding, manifests and requests too
	engines/vision/fuzz/run.sh head $(RUNS)
	cd serve && cargo +nightly fuzz run manifest -- -runs=$(RUNS) -max_len=4096
	cd serve && cargo +nightly fuzz run request -- -runs=$(RUNS) -max_len=16384
