# make demo   a small fleet learns on real data: one broker, one aggregator, ten gateways on this machine
# make test   everything that must hold, end to end
# make test-aarch64     the golden tests once more, as a Raspberry Pi 4 and 5 would compute them (qemu)
# make models-report    what the backbones reach on real data: models/report/report.json and the model cards
# make bench-backbone   what every exit costs on this machine: target/bench/backbone.json
# make explore          delivery under losses, deaths and cuts: SCHEDULES random walks from SEED on
# make bench-fleet      ten thousand gateways against one aggregator, a broker that dies: target/bench/fleet.json
# make bench-idle       what an idle gateway's uplink carries in MINUTES (12), and so in a day: target/bench/idle.json
# All install what they miss and say what. Needed beforehand: a Debian or Ubuntu machine, Rust (rustup) and
# Python 3. Everything that is built or fetched stays under target/, except packages and cargo's own caches.

ARCH := $(shell uname -m)
ORT_DIR := target/onnxruntime/$(ARCH)
export ORT_DYLIB_PATH := $(CURDIR)/$(ORT_DIR)/libonnxruntime.so
DEMO_ARGS ?=
REPORT_ARGS ?=
BENCH_ARGS ?=
export SEED ?= 1
SCHEDULES ?= 200000

.PHONY: help demo test build onnxruntime models models-report bench-backbone test-aarch64 explore bench-fleet bench-idle clean

help:
	@sed -n 's/^# //p' Makefile | head -10

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

explore:
	LOADONCE_SEED=$(SEED) LOADONCE_SCHEDULES=$(SCHEDULES) cargo test --release --locked -p loadonce-delivery \
		--test explore -- --nocapture

# SEED, SIZES and CODEC choose the run; `ulimit -n` bounds the gateways.
bench-fleet:
	@tests/prepare build
	@tests/prepare test
	cargo build --release --locked -p loadonce-aggregator -p loadonce-cli -p loadonce-tests --bin loadonce-aggregator --bin loadonce --bin fleet
	ulimit -n $$(ulimit -H -n) && target/release/fleet

bench-idle: onnxruntime
	@tests/prepare test
	cargo build --release --locked -p loadonce-aggregator -p loadonce-agent -p loadonce-tests --bin loadonce-aggregator --bin loadonce-agent --bin idle
	target/release/idle

clean:
	cargo clean
