#!/usr/bin/env bash
# Trains: sets up what is missing (see setup.sh), then runs `python -m fer_jax train [arguments]`.
#
#   ./launch/train.sh                                                              ToyFaces, a few minutes
#   ./launch/train.sh --config configs/fer2013.py --config.data.path=fer2013.csv   the paper's network on FER2013
set -eu

# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname -- "$0")/setup.sh"
setup run
# -P: a file of the user's folder that is named like a module must not be imported instead of it.
exec "$venv/bin/python" -P -m fer_jax train "$@"
