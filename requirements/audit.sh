#!/usr/bin/env bash
# Asks PyPI's advisory database about every package of the locks, by pip-audit (https://github.com/pypa/pip-audit):
#
#   requirements/audit.sh
#
# It ends with 1 where a version has a known vulnerability, or could not be asked about.
set -eu

cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${FER_JAX_PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit
code=0
for lock in requirements.txt requirements/[a-z]*.txt; do
    echo "--- $lock"
    "$scratch/venv/bin/pip-audit" --requirement "$lock" --require-hashes --disable-pip --strict --progress-spinner off || code=1
done
exit $code
