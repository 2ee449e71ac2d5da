#!/usr/bin/env bash
# Runs the tests on the newest nightly Keras, in an environment of its own (.nightly-venv), which it makes or brings up to date.
# Arguments are handed to pytest; without any, the quick tests run, two at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"

[ -x .nightly-venv/bin/python ] || python3 -m venv .nightly-venv
.nightly-venv/bin/pip install -q -e '.[test]'
# Both packages own the folder `keras`: the release must go first.
.nightly-venv/bin/pip uninstall -q -y keras keras-nightly
.nightly-venv/bin/pip install -q --upgrade --pre --no-deps keras-nightly
.nightly-venv/bin/python -c 'import keras; print("keras", keras.__version__)'
[ "$#" -gt 0 ] || set -- -n 2 -m "not slow"
.nightly-venv/bin/python -m pytest -q "$@"
