#!/usr/bin/env bash
# Measures the backbones: `models/report.sh report [option ...]` on real data, as models/protocol.toml says, into
# models/report/report.json and the model cards; `models/report.sh bench [option ...]` in time and memory, into
# target/bench/backbone.json. Needs target/release/loadonce (`make build`). What is done is kept in models/build/report,
# so an interrupted run goes on; with all four backbones built it takes some hours on two cores (`--no-scratch` leaves
# training from scratch out). What cannot be measured without a builder's files stays as the report has it. `--help`
# names the options.
set -euo pipefail
what=${1:?usage: models/report.sh report|bench [option ...]}
shift
cd "$(dirname "$0")"
loadonce=$(realpath -m ../target/release/loadonce)
[ -x "$loadonce" ] || { echo "$loadonce is missing: run make build" >&2; exit 1; }
export OMP_WAIT_POLICY=passive
# What `make` sets; here for those who run this by hand.
export ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$(realpath -m "../target/onnxruntime/$(uname -m)/libonnxruntime.so")}

python=.venv/bin/python
if ! cmp -s requirements.lock .venv/installed.lock; then
    if [ "$what" = bench ]; then
        # Timing needs no torch: the small environment of the tests is enough.
        python=../target/python/bin/python
        [ -x $python ] || python3 -m venv ../target/python
        if ! cmp -s requirements-test.lock ../target/python/installed.lock; then
            echo "installing models/requirements-test.lock into target/python"
            $python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
                -r requirements-test.lock
            cp requirements-test.lock ../target/python/installed.lock
        fi
    else
        command -v python3.11 >/dev/null || {
            echo "models/requirements.lock is for CPython 3.11 on x86-64: install python3.11 and its venv module" >&2
            exit 1
        }
        echo "installing models/requirements.lock into models/.venv (several GB, once)"
        python3.11 -m venv .venv
        $python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
        cp requirements.lock .venv/installed.lock
    fi
fi

case $what in
bench) exec $python -m loadonce_models.lab.bench --loadonce "$loadonce" "$@" ;;
report)
    [ -f ../target/bench/backbone.json ] || $python -m loadonce_models.lab.bench --loadonce "$loadonce"
    exec $python -m loadonce_models.lab.report --loadonce "$loadonce" "$@"
    ;;
*) echo "models/report.sh: there are report and bench, not '$what'" >&2; exit 2 ;;
esac
