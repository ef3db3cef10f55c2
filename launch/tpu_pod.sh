#!/usr/bin/env bash
# One training run on a TPU slice of Google Cloud, got as a queued resource. Needs gcloud, logged in.
#
#   ./launch/tpu_pod.sh --zone=us-west4-a --type=v5litepod-16 --version=v2-alpha-tpuv5-lite --workdir=/mnt/shared/runs/long \
#       --mount='mountpoint -q /mnt/shared || sudo mount -t nfs 10.0.0.2:/share /mnt/shared' train -- --config configs/fer2013.py
#
# Steps; each may be repeated at any time, and what is done already is left as it is:
#   train      create, copy and run, and all of it again after a preemption or a broken connection, with the same workdir
#   describe   prints the state of the request: ACTIVE when the slice is there, NONE when there is no request
#   create     asks for the slice, and waits for it; one that was preempted is asked for anew
#   copy       copies the repository to all workers, unless they are training
#   run        trains on all workers and waits; joins in where they are training already
#   stop       saves a checkpoint and ends the training
#   delete     gives the slice back
#
#   --zone, --type, --version   where, which accelerator, and the runtime's version
#   --workdir    folder of the run, shared by all workers
#   --mount      command by which a worker gets the shared folder, unless it has it: NFS, or gcsfuse with a bucket of the
#                hierarchical kind (others cannot rename folders at once, by which checkpoints are completed)
#   --name       of slice and request (fer-jax)            --project   (gcloud's own)
#   --spot       cheaper, and may be preempted             --attempts  of `train` (50)
#   --delete     `train` gives the slice back when it ends --dry-run   only prints the commands
#
# Exit codes: 0 done, 1 failed, 2 wrong input, 75 stopped or out of attempts: the same command goes on.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
poll=${FER_JAX_POLL_SECONDS:-30}
name=fer-jax zone='' type='' version='' project='' workdir='' mount='' attempts=50 spot=no give_back=no dry=no start=''
BROKEN=74 # what `run` ends with where it should be run again

say() { printf 'fer_jax: %s\n' "$*" >&2; }

wrong() {
    say "$*"
    exit 2
}

main() {
    local step='' option code=0
    while [ $# -gt 0 ]; do
        case $1 in
            --) shift && break ;;
            --name=* | --zone=* | --type=* | --version=* | --project=* | --workdir=* | --mount=* | --attempts=*)
                option=${1%%=*}
                printf -v "${option#--}" %s "${1#*=}"
                ;;
            --spot) spot=yes ;;
            --delete) give_back=yes ;;
            --dry-run) dry=yes ;;
            train | describe | create | copy | run | stop | delete)
                [ -z "$step" ] || wrong "one step at a time: $step or $1"
                step=$1
                ;;
            *) wrong "unknown argument $1; what training is to get stands behind --" ;;
        esac
        shift
    done
    [ -n "$step" ] || wrong 'which step? train, describe, create, copy, run, stop or delete'
    needs zone
    case $step in train | create) needs type version ;; esac
    case $step in train | run) needs workdir ;; esac
    [ "$dry" = yes ] || command -v gcloud >/dev/null || wrong 'gcloud is not on PATH; it is part of the Google Cloud SDK'
    training=("$@")
    archive=fer_jax.tar.gz
    if [ "$dry" = no ]; then
        archive=$(mktemp)
        trap 'rm -f "$archive"' EXIT
    fi
    case $step in
        train) train || code=$? ;;
        describe) describe || code=$? ;;
        create) create || code=$? ;;
        copy) copy || code=$? ;;
        run) run || code=$? ;;
        stop) stop || code=$? ;;
        delete) delete || code=$? ;;
    esac
    [ "$code" != $BROKEN ] || code=75
    return "$code"
}

needs() {
    local option
    for option; do [ -n "${!option}" ] || wrong "--$option=… is needed"; done
}

# --- gcloud

cloud() { # cloud ARGUMENTS: gcloud, in our project and zone; or prints that
    set -- gcloud compute tpus "$@" --zone="$zone" ${project:+"--project=$project"} --quiet
    if [ "$dry" = yes ]; then
        local argument
        for argument; do printf '%s ' "$(quoted "$argument")"; done
        echo
    else
        "$@"
    fi
}

queued() { cloud queued-resources "$@"; }

workers() { # workers COMMAND [--worker=0]: runs it on all workers, or on one
    cloud tpu-vm ssh "$name" "${2:---worker=all}" --command="$1"
}

state() { # prints the request's state, NONE where there is no request
    local answer
    if answer=$(queued describe "$name" --format='value(state.state)' 2>&1); then
        printf '%s\n' "${answer##*$'\n'}"
    elif [[ $answer == *NOT_FOUND* || $answer == *'not found'* ]]; then
        echo NONE
    else
        say "describe failed: $answer"
        return 1
    fi
}

# --- the steps

describe() {
    if [ "$dry" = yes ]; then queued describe "$name"; else state; fi
}

create() {
    local now told='' answer
    while [ "$dry" = no ]; do
        now=$(state) || return 1
        case $now in
            ACTIVE) return 0 ;;
            NONE) break ;;
            FAILED | SUSPENDED)
                say "$name is $now, and asked for anew"
                delete || return 1
                ;;
            *)
                [ "$now" = "$told" ] || say "$name is $now; waiting"
                told=$now
                sleep "$poll"
                ;;
        esac
    done
    set -- "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$version"
    [ "$spot" = no ] || set -- "$@" --spot
    if [ "$dry" = yes ]; then
        queued create "$@"
        return
    fi
    if ! answer=$(queued create "$@" 2>&1); then
        case $answer in
            *ALREADY_EXISTS* | *'already exists'*) ;; # asked for by somebody else meanwhile
            *[Qq]uota* | *RESOURCE_EXHAUSTED*) wrong "no quota for $type in $zone; ask for it, or for another --type or --zone: $answer" ;;
            *PERMISSION_DENIED* | *INVALID_ARGUMENT*) wrong "create was refused: $answer" ;;
            *)
                say "create failed: $answer"
                return 1
                ;;
        esac
    fi
    await
}

await() { # waits until the slice is there; fails where it will not come
    local now told=''
    while :; do
        now=$(state) || return 1
        [ "$now" != ACTIVE ] || return 0
        [ "$now" = "$told" ] || say "$name is $now; waiting"
        told=$now
        case $now in FAILED | SUSPENDED | NONE) return 1 ;; esac
        sleep "$poll"
    done
}

copy() {
    # A run that is going on keeps its files, for it may still import some of them.
    local unpack='if fer_jax/launch/tpu_worker.sh busy 2>/dev/null; then exit 0; fi; rm -rf fer_jax.new && mkdir fer_jax.new'
    unpack+=' && tar -xzf fer_jax.tar.gz -C fer_jax.new && rm -rf fer_jax && mv fer_jax.new fer_jax'
    set -- -C "$root" --exclude=__pycache__ -czf "$archive" fer_jax configs launch requirements requirements.txt
    [ "$dry" = yes ] || tar "$@"
    cloud tpu-vm scp "$archive" "$name:fer_jax.tar.gz" --worker=all && workers "$unpack"
}

run() { # its exit code: that of training, or BROKEN
    local command argument code=0 answer
    # Repeated after a broken connection with the same one, it starts nothing that was started.
    start=${start:-$(date +%s)-$RANDOM}
    command="FER_JAX_START=$start FER_JAX_MOUNT=$(quoted "$mount") fer_jax/launch/tpu_worker.sh run"
    for argument in --workdir="$workdir" ${training[@]+"${training[@]}"}; do command+=" $(quoted "$argument")"; done
    # Interrupted here, training goes on over there.
    trap 'say "$name goes on training; run joins in again, stop ends it"; exit 75' INT TERM
    workers "$command" || code=$?
    trap - INT TERM
    [ "$dry" = no ] || return 0
    # gcloud's own exit code tells nothing of which worker ended how.
    answer=$(workers 'fer_jax/launch/tpu_worker.sh status') || {
        say "the connection to $name broke (exit code $code)"
        return "$BROKEN"
    }
    verdict "$answer"
}

verdict() { # verdict TEXT: the exit code of training by what the workers say of theirs
    local statuses
    statuses=$(printf '%s\n' "$1" | sed -n 's/.*fer_jax status: //p' | sort -u)
    say "the workers ended with: $(echo "$statuses" | tr '\n' ' ')"
    case " $(echo "$statuses" | tr '\n' ' ')" in
        ' 0 ') return 0 ;;
        *' 2 '*) return 2 ;;
        *' stopped '*) return 75 ;;
        *running* | '  ') return "$BROKEN" ;;
        *none* | *' 75 '* | *' 1'[2-9][0-9]' '*) # stopped by a preemption, or lost a process
            start=''
            return "$BROKEN"
            ;;
        *) return 1 ;;
    esac
}

stop() { workers 'fer_jax/launch/tpu_worker.sh stop' --worker=0; }

delete() {
    if [ "$dry" = yes ]; then
        queued delete "$name" --force
        return
    fi
    [ "$(state)" != NONE ] || return 0
    queued delete "$name" --force || [ "$(state)" = NONE ]
}

train() {
    local attempt=1 code
    while :; do
        code=$BROKEN
        if create && copy; then
            code=0
            run || code=$?
        fi
        [ "$code" = "$BROKEN" ] || break
        [ "$attempt" -lt "$attempts" ] || {
            say "gave up after $attempt attempts; the same command goes on"
            code=75
            break
        }
        attempt=$((attempt + 1))
        say "attempt $attempt of at most $attempts in $poll s"
        sleep "$poll"
    done
    [ "$give_back" = no ] || delete || say "$name could not be given back; ./launch/tpu_pod.sh --name=$name --zone=$zone delete does it"
    return "$code"
}

quoted() { # quoted TEXT: as a shell reads it back
    case $1 in
        '' | *[!A-Za-z0-9_./:=,@%+-]*) printf "'%s'" "${1//\'/\'\\\'\'}" ;;
        *) printf %s "$1" ;;
    esac
}

main "$@"
