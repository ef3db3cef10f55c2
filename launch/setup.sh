# Makes the Python environment that train.sh and test.sh run in; sourced by both. It gives them `root` (the repository),
# `venv` (the environment's folder) and `setup run` / `setup dev` (the latter with the test tools), and never changes the
# working directory, so that relative paths in a user's arguments keep their meaning.
#
#   FER_JAX_VENV          the environment's folder                   (.venv in the repository)
#   FER_JAX_PYTHON        the Python to make it with                 (the first that works of python3.13, 3.12, 3.11, python3)
#   FER_JAX_ACCELERATOR   cpu, cuda, cuda12, cuda13 or tpu           (what the machine has)
#
# An environment is up to date while its stamp names the same requirements, Python and accelerator. The stamp is written
# last: an environment whose making was cut off has none, and is made anew.
# shellcheck shell=bash

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${FER_JAX_VENV:-$root/.venv}

say() { printf 'fer_jax: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

setup() { # setup run|dev
    accelerator=$(choose_accelerator) || exit 1
    base=("$root/requirements.txt")
    [ "$accelerator" = cpu ] || base+=("$root/requirements/$accelerator.txt")
    tools="$root/requirements/dev.txt"
    if ! up_to_date "$1"; then
        lock
        up_to_date "$1" || make_environment "$1" # another start may have made it meanwhile
        unlock
    fi
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
}

# --- what the machine has

choose_accelerator() { # prints cpu, cuda12, cuda13 or tpu
    case ${FER_JAX_ACCELERATOR:-} in
        cpu | cuda12 | cuda13 | tpu) echo "$FER_JAX_ACCELERATOR" ;;
        cuda) cuda_release "$(nvidia_gpus)" ;;
        '')
            local gpus
            gpus=$(nvidia_gpus)
            if [ "$(uname -s)" = Linux ] && [ -n "$gpus" ]; then
                cuda_release "$gpus"
            elif has_tpu /dev /sys; then
                echo tpu
            else
                echo cpu
            fi
            ;;
        *) fail "FER_JAX_ACCELERATOR=$FER_JAX_ACCELERATOR is none of cpu, cuda, cuda12, cuda13, tpu" ;;
    esac
}

nvidia_gpus() { # prints 'driver version, compute capability' of each GPU; nothing where there is none
    nvidia-smi -L 2>/dev/null | grep -q '^GPU' || return 0
    nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null || echo unknown
}

# CUDA 13 needs driver 580 and compute capability 7.5; CUDA 12 runs on older ones (driver 525) and on newer ones too.
cuda_release() {
    printf '%s\n' "$1" | awk -F '[, ]+' '$1 + 0 < 580 || $NF + 0 < 7.5 { older = 1 } END { print older ? "cuda12" : "cuda13" }'
}

# Intel's NPUs have /dev/accel too, any passed-through device has /dev/vfio, and Google's virtual network cards have its
# PCI vendor number: only all of them together, with a class that is no network's, tell a TPU.
has_tpu() { # has_tpu /dev /sys
    local node device
    for node in "$1"/accel[0-9]* "$1"/vfio/[0-9]*; do
        [ -e "$node" ] || continue
        for device in "$2"/bus/pci/devices/*; do
            [ "$(cat "$device/vendor" 2>/dev/null)" = 0x1ae0 ] || continue
            case $(cat "$device/class" 2>/dev/null) in
                0x02*) ;;
                *) return 0 ;;
            esac
        done
    done
    return 1
}

# --- which Python

version_of() { # prints the version of a Python
    "$1" -I -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

usable() { # usable PYTHON: prints its version, or what it lacks and fails
    local version
    # A version manager's stand-in may be on PATH and yet run nothing.
    version=$("$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || {
        echo 'does not run'
        return 1
    }
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "is $version"
        return 1
    }
    "$1" -c 'import ensurepip, venv' 2>/dev/null || {
        echo "is $version without venv or ensurepip (Debian and Ubuntu: apt-get install python${version%.*}-venv)"
        return 1
    }
    echo "$version"
}

find_python() { # prints the command of the Python to use
    local candidate answer seen=''
    if [ -n "${FER_JAX_PYTHON:-}" ]; then
        answer=$(usable "$FER_JAX_PYTHON") || fail "FER_JAX_PYTHON=$FER_JAX_PYTHON $answer; Python 3.11 or newer is needed"
        echo "$FER_JAX_PYTHON"
        return
    fi
    for candidate in python3.13 python3.12 python3.11 python3; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if answer=$(usable "$candidate"); then
            echo "$candidate"
            return
        fi
        seen="$seen${seen:+; }$candidate $answer"
    done
    fail "no Python 3.11 or newer to set up with (${seen:-there is no python3 at all}); install one or name it in FER_JAX_PYTHON"
}

# --- the environment

up_to_date() { # up_to_date run|dev
    local version
    version=$(version_of "$venv/bin/python") || return 1
    if [ -n "${FER_JAX_PYTHON:-}" ] && [ "$(version_of "$FER_JAX_PYTHON")" != "$version" ]; then
        return 1
    fi
    same "$venv/fer_jax.stamp" "$(key "$version" "${base[@]}")" || return 1
    [ "$1" = run ] || same "$venv/fer_jax-dev.stamp" "$(key "$version" "$tools")"
}

key() { # key VERSION FILES: what a stamp holds
    local version=$1
    shift
    echo "Python $version, $accelerator, requirements $(cat "$@" | cksum)"
}

same() { # same FILE TEXT
    [ "$(cat "$1" 2>/dev/null)" = "$2" ]
}

make_environment() { # make_environment run|dev
    local python version file lists=() started=$SECONDS
    if ! up_to_date run; then
        python=$(find_python) || exit 1
        version=$(version_of "$python")
        say "setting up ${venv#"$PWD"/} with Python $version for $accelerator; this takes a minute or a few ..."
        empty_folder
        "$python" -I -m venv "$venv" >"$venv/install.log" 2>&1 ||
            fail "$python -m venv failed: $(tail -n 1 "$venv/install.log")"
        # One dependency comes as source only; its build must not fetch an unpinned setuptools.
        pip_install --only-binary :all: -r "$root/requirements/build.txt"
        for file in "${base[@]}"; do lists+=(-r "$file"); done
        pip_install --no-build-isolation --only-binary :all: --no-binary promise "${lists[@]}"
        key "$version" "${base[@]}" >"$venv/fer_jax.stamp"
    fi
    if [ "$1" = dev ]; then
        pip_install --only-binary :all: -r "$tools"
        key "$(version_of "$venv/bin/python")" "$tools" >"$venv/fer_jax-dev.stamp"
    fi
    say "${venv#"$PWD"/} is ready after $((SECONDS - started)) s"
}

empty_folder() { # leaves $venv there, empty but for the mark that says these scripts made it
    local mark="$venv/fer_jax.made"
    rm -f "$venv/fer_jax.stamp" "$venv/fer_jax-dev.stamp"
    if [ -e "$venv" ] && [ ! -e "$mark" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv was not made by these scripts and is left alone: remove it, or name another folder in FER_JAX_VENV"
    fi
    if ! mkdir -p "$venv" 2>/dev/null || ! touch "$mark" 2>/dev/null; then
        fail "cannot write to $venv; name another folder in FER_JAX_VENV"
    fi
    find "$venv/." -mindepth 1 ! -name fer_jax.made -delete
}

pip_install() { # pip_install PIP-ARGUMENTS
    # -I: packages on a user's PYTHONPATH must not pass for installed ones. Byte code is made at first import instead.
    PIP_USER=0 "$venv/bin/python" -I -m pip install --quiet --no-input --disable-pip-version-check --no-compile --require-hashes \
        "$@" >"$venv/install.log" 2>&1 && return
    local network='NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|Network is unreachable'
    if grep -qE "$network" "$venv/install.log"; then
        fail "the package index cannot be reached: is there a network? (pip's words: $venv/install.log)"
    fi
    fail "pip failed: $(grep -i error "$venv/install.log" | tail -n 1) (all of its words: $venv/install.log)"
}

# Two starts at once: the second waits for the first. This file itself is what is locked, so nothing new lies about.
lock() {
    command -v flock >/dev/null 2>&1 || return 0
    exec 9<"$root/launch/setup.sh"
    flock -n 9 || {
        say 'another start is setting up the environment; waiting for it ...'
        flock 9
    }
}

# A training run must not hold the lock for its hours.
unlock() { exec 9<&-; }
