#!/usr/bin/env bash
# Rebuilds the sense-tiny bundle from nothing: environment, real data, pretraining,
# export, int8, golden vectors, figures of the card. An interrupted run goes on
# from its last checkpoint; remove build/ to start afresh. What is committed is
# replaced only after the new bundle has passed its checks.
#
#   models/build.sh [CPU minutes of pretraining, 25.5 by default]
set -euo pipefail
cd "$(dirname "$0")"
minutes="${1:-25.5}"
build="build/sense-tiny"
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

"$python" -m loadonce_models.fetch_data
if [ ! -f "$build/pretrain.json" ]; then
    # Waiting threads must sleep: a spinning one would be billed to the budget.
    OMP_WAIT_POLICY=passive "$python" -m loadonce_models.pretrain --out "$build" --minutes "$minutes" --wall-minutes 120
fi
"$python" -m loadonce_models.assemble --weights "$build/weights.safetensors" \
    --bundle "$build/new/sense-tiny" --golden "$build/golden"
# Stops here when int8 departs from fp32.
"$python" -m loadonce_models.card --build "$build" --bundle "$build/new/sense-tiny"
rm -rf bundles/sense-tiny
cp -r "$build/new/sense-tiny" bundles/
cp "$build"/golden/*.safetensors ../tests/golden/
"$python" -m pytest -q tests
