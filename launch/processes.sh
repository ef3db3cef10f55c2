#!/usr/bin/env bash
# Trains one run by several processes on this host: sets up what is missing (see setup.sh), then runs processes.py.
#
#   ./launch/processes.sh --processes=2 --config configs/fer2013.py --config.data.path=fer2013.csv
#   ./launch/processes.sh --processes=2 --restarts=3 …        starts all again, up to 3 times, after one was lost or stopped
#
# Each process has its share of the GPUs or of the cores. SIGTERM or Ctrl-C goes to one process, upon which all save at the
# same step and end; a second one kills all. Exit codes are those of training: 0 done, 1 failed, 2 wrong input, 75 stopped
# or lost a process: the same command goes on.
set -eu

# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname -- "$0")/setup.sh"
setup run
exec "$venv/bin/python" -P "$root/launch/processes.py" "$@"
