#!/usr/bin/env bash
# What tpu_pod.sh runs on each worker of a TPU slice. Training does not hang on the connection: it goes on without it, and a
# second `run` joins in.
#
#   tpu_worker.sh run ARGUMENTS   starts training, unless it is going on or was started for the same FER_JAX_START; prints its words
#                                 until it ends, and its exit code is ours
#   tpu_worker.sh busy            whether it is going on
#   tpu_worker.sh status          prints how it ended: an exit code, `stopped`, `running`, or `none` where there was none
#   tpu_worker.sh stop            saves a checkpoint and ends it, on all workers
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
record=$HOME/.fer_jax_pod
mkdir -p "$record"

busy() { # who trains holds the lock, and a process that dies, or a machine that restarts, gives it back
    exec 8>"$record/lock"
    if flock -n 8; then
        exec 8>&-
        return 1
    fi
    exec 8>&-
}

run() {
    exec 8>"$record/lock"
    local lines=20
    if flock -n 8 && [ "$(cat "$record/start" 2>/dev/null)" != "$FER_JAX_START" ]; then
        lines=+1
        rm -f "$record/exit" "$record/stopped"
        echo "$FER_JAX_START" >"$record/start"
        : >"$record/log"
        setsid bash "$0" train "$@" >"$record/log" 2>&1 </dev/null &
    fi
    exec 8>&-
    # Neither must keep open a connection that has broken.
    tail --pid=$$ -n "$lines" -f "$record/log" &
    local reader=$!
    exec 8>"$record/lock"
    flock 8 >/dev/null 2>&1
    exec 8>&-
    sleep 0.5 # for the last lines
    kill "$reader"
    return "$(cat "$record/exit" 2>/dev/null || echo 1)"
}

train() { # in a session of its own, with the lock
    local code=0
    if prepare; then
        FER_JAX_ACCELERATOR=tpu "$root/launch/train.sh" --distributed=auto "$@" &
        echo $! >"$record/process"
        wait $! || code=$?
    else
        code=1
    fi
    echo "$code" >"$record/exit.new"
    mv "$record/exit.new" "$record/exit"
}

prepare() {
    [ -z "${FER_JAX_MOUNT:-}" ] || bash -c "$FER_JAX_MOUNT" || {
        echo "fer_jax: --mount failed: $FER_JAX_MOUNT"
        return 1
    }
    # The environment lies outside of the repository, which every copy replaces.
    export FER_JAX_VENV=$HOME/fer_jax_venv
    local python
    for python in python3.13 python3.12 python3.11 python3; do
        "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    # The runtimes' Ubuntu 22.04 has Python 3.10.
    python3 -m pip install --quiet --user uv && "$HOME/.local/bin/uv" python install --quiet 3.13 || return 1
    FER_JAX_PYTHON=$("$HOME/.local/bin/uv" python find 3.13)
    export FER_JAX_PYTHON
}

status() {
    if busy; then
        echo 'fer_jax status: running'
    elif [ -e "$record/stopped" ] && [ "$(cat "$record/exit" 2>/dev/null)" = 75 ]; then
        echo 'fer_jax status: stopped'
    else
        echo "fer_jax status: $(cat "$record/exit" 2>/dev/null || echo none)"
    fi
}

stop() {
    busy || return 0
    touch "$record/stopped"
    kill -TERM "$(cat "$record/process")"
}

"$@"
