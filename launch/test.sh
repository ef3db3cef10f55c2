#!/usr/bin/env bash
# Tests: sets up what is missing (see setup.sh), then runs pytest on several cores.
#
#   ./launch/test.sh                        the quick tests
#   ./launch/test.sh --slow                 the long ones
#   ./launch/test.sh tests/training/test_step.py     and whatever else pytest takes (-n 0 --pdb, -k name, …)
set -eu

# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname -- "$0")/setup.sh"
setup dev
named=no
for argument; do
    [ ! -e "${argument%%::*}" ] || named=yes
done
[ $named = yes ] || set -- "$@" "$root/tests"
exec "$venv/bin/python" -P -m pytest -c "$root/pyproject.toml" --rootdir "$root" -n auto --dist loadfile --no-loadscope-reorder "$@"
