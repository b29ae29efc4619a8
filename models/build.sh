#!/usr/bin/env bash
# Rebuilds the sense-tiny bundle from nothing: environment, real data, pretraining,
# export, int8, golden vectors, figures of the card. An interrupted run goes on
# from its last checkpoint; remove build/ to start afresh.
#
#   models/build.sh [CPU minutes of pretraining, 25.5 by default]
set -euo pipefail
cd "$(dirname "$0")"
minutes="${1:-25.5}"
build="build/sense-tiny"
python=.venv/bin/python

if [ ! -x "$python" ]; then
    python3.11 -m venv .venv
    # The lock is the complete set; --no-deps makes pip refuse to add to it.
    .venv/bin/pip install --quiet --no-deps --require-hashes -r requirements.lock
fi

"$python" -m loadonce_models.fetch_data
if [ ! -f "$build/pretrain.json" ]; then
    # Waiting threads must sleep: a spinning one would be billed to the budget.
    OMP_WAIT_POLICY=passive "$python" -m loadonce_models.pretrain --out "$build" --minutes "$minutes" --wall-minutes 120
fi
"$python" -m loadonce_models.assemble --weights "$build/weights.safetensors"
"$python" -m loadonce_models.card --build "$build"
"$python" -m pytest -q tests
