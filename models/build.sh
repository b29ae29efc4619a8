#!/usr/bin/env bash
# Builds a sense bundle from nothing: environment, pretraining on generated data,
# export, int8, golden vectors, figures of the card. An interrupted run goes on
# from its last checkpoint; remove build/sense-SCALE to start afresh. What is
# committed is replaced only after the new bundle has passed its checks; with
# BUILD=build/OTHER the build is a trial of its own, and nothing is replaced.
#
#   models/build.sh [tiny | small | base] [option of loadonce_models.pretrain ...]
#
# Two cores that multiply bf16 in hardware need about 30, 40 and 95 minutes, one
# GPU about ten. `--teacher build/sense-small` distils from that scale, which
# must be built already.
set -euo pipefail
cd "$(dirname "$0")"
scale="${1:-tiny}"
shift || true
case "$scale" in
tiny | small | base) ;;
*) echo "models/build.sh: no scale '$scale'; there are tiny, small and base" >&2; exit 2 ;;
esac
build="${BUILD:-build/sense-$scale}"
python=.venv/bin/python

command -v python3.11 >/dev/null || {
    echo "models/requirements.lock is for CPython 3.11 on x86-64: install python3.11 and its venv module" >&2
    exit 1
}
if ! cmp -s requirements.lock .venv/installed.lock; then
    echo "installing models/requirements.lock into models/.venv (several GB, once)"
    python3.11 -m venv .venv
    # The lock is the complete set; --no-deps makes pip refuse to add to it.
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
    cp requirements.lock .venv/installed.lock
fi

if [ -f "$build/pretrain.json" ] && [ $# -gt 0 ]; then
    echo "models/build.sh: $build is trained already; go on without options, or remove it to train with $*" >&2
    exit 1
elif [ ! -f "$build/pretrain.json" ]; then
    # Waiting threads must sleep: a spinning one takes the other core's time. The processes that generate data beside a
    # GPU are one to a core already: threads of the numeric library in each made a step three times slower.
    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$python" -m loadonce_models.pretrain \
        --scale "$scale" --out "$build" "$@"
fi
"$python" -m loadonce_models.assemble --scale "$scale" --build "$build"
if [ -n "${BUILD:-}" ]; then
    echo "models/build.sh: the bundle is $build/bundles/sense-$scale; nothing that is committed was replaced"
    exit 0
fi
# Stops here when int8 departs from fp32.
"$python" -m loadonce_models.card --build "$build" --bundle "$build/bundles/sense-$scale" --card "cards/sense-$scale.md"
rm -rf "bundles/sense-$scale"
cp -r "$build/bundles/sense-$scale" bundles/
if [ "$scale" = tiny ]; then
    cp "$build"/golden/*.safetensors ../tests/golden/
fi
