# make demo   a small fleet learns on real data: one broker, one aggregator, ten gateways on this machine
# make test   everything that must hold, end to end
# make test-aarch64     the golden tests once more, as a Raspberry Pi 4 and 5 would compute them (qemu)
# make models-report    what the backbones reach on real data: models/report/report.json and the model cards
# make bench-backbone   what every exit costs on this machine: target/bench/backbone.json
# make bench-rounds     buffered rounds against sync with half the fleet ten times slower: target/bench/rounds.json
# All install what they miss and say what. Needed beforehand: a Debian or Ubuntu machine, Rust (rustup) and
# Python 3. Everything that is built or fetched stays under target/, except packages and cargo's own caches.

ARCH := $(shell uname -m)
ORT_DIR := target/onnxruntime/$(ARCH)
export ORT_DYLIB_PATH := $(CURDIR)/$(ORT_DIR)/libonnxruntime.so
DEMO_ARGS ?=
REPORT_ARGS ?=
BENCH_ARGS ?=
ROUNDS_ARGS ?=

.PHONY: help demo test build onnxruntime models models-report bench-backbone bench-rounds test-aarch64 clean

help:
	@sed -n 's/^# //p' Makefile | head -8

demo: build
	target/release/loadonce demo $(DEMO_ARGS)

build: onnxruntime
	cargo build --release --locked -p loadonce-cli -p loadonce-agent -p loadonce-aggregator

onnxruntime:
	@tests/prepare build
	@cross/fetch-onnxruntime $(ARCH) $(ORT_DIR)

test: onnxruntime
	@tests/prepare test
	tests/run

test-aarch64:
	tests/aarch64

models:
	models/build.sh

models-report: build
	models/report.sh report $(REPORT_ARGS)

bench-backbone: build
	models/report.sh bench $(BENCH_ARGS)

bench-rounds: onnxruntime
	cargo build --release --locked -p loadonce-cli
	target/release/loadonce bench-rounds --out target/bench/rounds.json $(ROUNDS_ARGS)

clean:
	cargo clean
