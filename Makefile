# make demo   a small fleet learns on real data: one broker, one aggregator, ten gateways on this machine
# make test   everything that must hold, end to end
# make test-aarch64     suites and a small fleet once more, as a Raspberry Pi 3, 4 and 5 would compute them (qemu; an hour)
# make cross TARGET=    programs for a gateway into target/cross/TARGET, stripped, with their lists of crates; no docker
# make cross-check      Cross.toml and its image, with cross itself and a recorder for docker
# make reproduce TARGET=     the same commit in another folder gives the same bytes
# make budgets          sizes, memory and start against cross/budgets.toml: target/bench/budgets.json (PARTLY=1)
# make models-report    what the backbones reach on real data: models/report/report.json and the model cards
# make soak          200 SIGKILLs over a fleet during live rounds: target/bench/soak.json (SEED, SCHEDULE, KILLS)
# make fuzz          every fuzz target under libFuzzer for FUZZ_SECONDS (600) each
# make mutate        100,000 damaged frames against a live aggregator and a live agent (FRAMES, SEED)
# make bad-line      64 kbit/s, 5 % loss, 800 ms: target/bench/line.json
# make bench-codec      what every codec of steps costs and loses on two real tasks: target/bench/codec.json
# make bench-backbone   what every exit costs on this machine: target/bench/backbone.json
# make explore          delivery under losses, deaths and cuts: SCHEDULES random walks from SEED on
# make bench-fleet      ten thousand gateways against one aggregator, a broker that dies: target/bench/fleet.json
# make bench-idle       what an idle gateway sends and writes to its disk in MINUTES (20), and so in a day: target/bench/idle.json
# make bench-rounds     buffered rounds against sync with half the fleet ten times slower: target/bench/rounds.json
# make packages [TARGET=triple]   Debian packages into target/packages (docs/install.md)
# make test-packages      the packages on a real dpkg and a real systemd, in a container; needs root
# make test-broker      lints deploy/, and runs broker, metrics, alerts and dashboard against a real Prometheus
# make image         a disk image of a gateway (Raspberry Pi 3/4, any arm64 board with UEFI): target/image/loadonce-arm64.img
# make test-image    boots it under qemu: configures, enrols, trains, loses its power twice: target/bench/image.json
# All install what they miss and say what. Needed beforehand: a Debian or Ubuntu machine, Rust (rustup) and
# Python 3. Everything that is built or fetched stays under target/, except packages and cargo's own caches.

ARCH := $(shell uname -m)
ORT_DIR := target/onnxruntime/$(ARCH)
export ORT_DYLIB_PATH := $(CURDIR)/$(ORT_DIR)/libonnxruntime.so
DEMO_ARGS ?=
REPORT_ARGS ?=
BENCH_ARGS ?=
CODEC_ARGS ?=
ROUNDS_ARGS ?=
export SEED ?= 1
TARGET ?= aarch64-unknown-linux-gnu
SCHEDULES ?= 200000

.PHONY: help demo test build onnxruntime models models-report bench-backbone bench-codec bench-rounds \
	test-aarch64 explore bench-fleet bench-idle packages test-packages test-broker soak fuzz mutate bad-line harsh \
	image test-image cross cross-check reproduce budgets clean

help:
	@sed -n '/^# make/s/^# //p' Makefile

demo: build
	target/release/loadonce demo $(DEMO_ARGS)

build: onnxruntime
	cargo build --release --locked -p loadonce-cli -p loadonce-agent -p loadonce-aggregator \
		--bin loadonce --bin loadonce-agent --bin loadonce-aggregator

onnxruntime:
	@tests/prepare build
	@cross/fetch-onnxruntime $(ARCH) $(ORT_DIR)

test: onnxruntime
	@tests/prepare test
	tests/run

test-aarch64:
	tests/aarch64

cross:
	@tests/prepare build
	cross/build $(TARGET)

cross-check:
	@tests/prepare build
	cross/check

reproduce:
	@tests/prepare build
	cross/reproduce $(TARGET)

# Native figures are of the agent that is shipped, too. BUILT=1: `make test` has built the rest.
budgets: HERE := $(ARCH)-unknown-linux-gnu
budgets: onnxruntime
	@tests/prepare test
	cross/build aarch64-unknown-linux-gnu loadonce-agent
	OUT=target/packages ONLY=loadonce-agent deploy/debian/build aarch64-unknown-linux-gnu
	[ $(HERE) = aarch64-unknown-linux-gnu ] || cross/build $(HERE) loadonce-agent
	tests/aarch64 load
	[ -n "$(BUILT)" ] || cargo build --locked -p loadonce-tests -p loadonce-aggregator \
		--bin budgets --bin memory --bin loadonce-aggregator
	LOADONCE_PATIENCE_S=600 LOADONCE_AGENT_BIN=$(CURDIR)/target/cross/$(HERE)/loadonce-agent target/debug/budgets

models:
	models/build.sh

models-report: build
	models/report.sh report $(REPORT_ARGS)

bench-backbone: build
	models/report.sh bench $(BENCH_ARGS)

bench-rounds: onnxruntime
	cargo build --release --locked -p loadonce-cli
	target/release/loadonce bench-rounds --out target/bench/rounds.json $(ROUNDS_ARGS)

bench-codec: onnxruntime
	@tests/prepare build
	cargo build --release --locked -p loadonce-cli --bin loadonce-bench-codec
	target/release/loadonce-bench-codec $(CODEC_ARGS)

explore:
	LOADONCE_SEED=$(SEED) LOADONCE_SCHEDULES=$(SCHEDULES) cargo test --release --locked -p loadonce-delivery \
		--test explore -- --nocapture

# SEED, SIZES and CODECS choose the run; `ulimit -n` bounds the gateways.
bench-fleet:
	@tests/prepare build
	@tests/prepare test
	cargo build --release --locked -p loadonce-aggregator -p loadonce-cli -p loadonce-tests --bin loadonce-aggregator --bin loadonce --bin fleet
	ulimit -n $$(ulimit -H -n) && target/release/fleet

bench-idle: onnxruntime
	@tests/prepare test
	cargo build --release --locked -p loadonce-aggregator -p loadonce-agent -p loadonce-tests --bin loadonce-aggregator --bin loadonce-agent --bin idle
	target/release/idle

# The programs under test are release builds, and so is what drives them.
harsh: build
	@tests/prepare test
	cargo build --release --locked -p loadonce-tests --bins

soak: harsh
	target/release/soak

bad-line: harsh
	target/release/line

fuzz: onnxruntime
	@tests/prepare build
	tests/fuzz/run

mutate: onnxruntime
	@tests/prepare test
	cargo build --locked -p loadonce-agent -p loadonce-aggregator
	LOADONCE_FRAMES=$(or $(FRAMES),100000) LOADONCE_SEED=$(or $(SEED),1) \
		cargo test --locked -p loadonce-tests --test mutated -- --nocapture

# Other machines' programs come from `make cross`.
packages:
	@tests/prepare build
	deploy/debian/build $(if $(filter file,$(origin TARGET)),,$(TARGET))

test-packages:
	@tests/prepare build
	tests/packages $(PROGRAMS)

test-broker: onnxruntime
	@tests/prepare test
	deploy/lint
	cargo build --locked -p loadonce-agent -p loadonce-aggregator
	cargo test --locked -p loadonce-tests --test broker --test metrics -- --include-ignored --nocapture

# REFRESH=1 fetches Debian again, and with it its security updates.
image:
	@tests/prepare build
	@tests/prepare image
	cross/build aarch64-unknown-linux-gnu loadonce-agent
	rm -rf target/image/packages
	OUT=target/image/packages ONLY="loadonce-agent loadonce-onnxruntime loadonce-backbone-sense-tiny" \
		deploy/debian/build aarch64-unknown-linux-gnu
	deploy/image/build target/image/packages/*.deb

# CPU chooses the processor (cortex-a72).
test-image: image harsh
	LOADONCE_PATIENCE_S=900 target/release/image

clean:
	cargo clean
