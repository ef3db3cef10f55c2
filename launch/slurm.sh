# What the two batch scripts share; sourced by both. Gives them `setup` (see setup.sh) and `step`.
# shellcheck shell=bash

# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

step() { # step [srun's options] COMMAND: runs it by srun, and ends the job, or puts it back into the queue to go on later
    local code=0
    # SLURM's SIGTERM is for the processes. Where it reaches this script too, it is to stay and see how they end.
    trap : TERM
    # srun does not take this over from sbatch (since SLURM 22.05).
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
    srun "$@" || code=$?
    if goes_on "$code"; then
        say "ended with $code; back into the queue, restart $((${SLURM_RESTART_COUNT:-0} + 1)) of at most ${FER_JAX_REQUEUES:-20}"
        scontrol requeue "$SLURM_JOB_ID" || exit "$code"
        sleep 600 # SLURM ends this script long before
    fi
    exit "$code"
}

goes_on() { # goes_on CODE: whether the job is to start again
    [ "$1" -eq 75 ] || [ "$1" -ge 128 ] || return 1                            # stopped, or a process was killed
    [ "${SLURM_RESTART_COUNT:-0}" -lt "${FER_JAX_REQUEUES:-20}" ] || return 1
    # scancel stops it too, and SLURM would requeue even a job that was cancelled.
    scontrol show job --oneliner "$SLURM_JOB_ID" | grep -q ' JobState=RUNNING '
}
