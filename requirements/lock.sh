#!/usr/bin/env bash
# Writes every lock of the project anew from pyproject.toml:
#
#   requirements/lock.sh [uv pip compile options]        e.g. --upgrade-package jax
#
# It needs uv (https://docs.astral.sh/uv) on PATH. Releases younger than two weeks are left alone: a broken or hijacked
# release is mostly found and withdrawn in its first days. Another day: EXCLUDE_NEWER=2026-12-31.
set -eu

cd "$(dirname "$0")/.."
newest=${EXCLUDE_NEWER:-$(date -u -d '14 days ago' +%Y-%m-%d 2>/dev/null || date -u -v-14d +%Y-%m-%d)}

compile() { # compile OUTPUT [options]: the pins and hashes for Python 3.11 and every later one, as markers
    local output=$1
    shift
    uv pip compile pyproject.toml --universal --python-version 3.11 --exclude-newer "$newest" --generate-hashes --no-annotate \
        --quiet --custom-compile-command requirements/lock.sh --output-file "$output" "$@" >/dev/null
}

compile requirements.txt "$@"
# The others hold only what they add, and pip gets them together with requirements.txt.
shared=$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.txt | sort -u)
for extra in cuda12 cuda13 tpu docs fuzz; do
    # shellcheck disable=SC2086 # options and names, none with a blank
    compile "requirements/$extra.txt" --extra "$extra" --constraint requirements.txt $shared "$@"
done
# What predict, serve, demo, export and hub take beyond that, and the tests, which try all of it and build the documentation.
apps='--extra predict --extra demo --extra export --extra litert --extra hub'
# shellcheck disable=SC2086
compile requirements/apps.txt $apps --constraint requirements.txt $shared "$@"
# The service's part of them, for its image.
# shellcheck disable=SC2086
compile requirements/serve.txt --extra serve --constraint requirements.txt --constraint requirements/apps.txt $shared "$@"
# shellcheck disable=SC2086
compile requirements/fleet.txt --extra fleet --constraint requirements.txt --constraint requirements/apps.txt $shared "$@"
# shellcheck disable=SC2086
compile requirements/dev.txt --extra dev --extra docs $apps --constraint requirements.txt --constraint requirements/apps.txt $shared "$@"
# What builds the one dependency that comes as source only (promise).
echo setuptools | uv pip compile - --universal --python-version 3.11 --exclude-newer "$newest" --generate-hashes --no-annotate \
    --quiet --custom-compile-command requirements/lock.sh --output-file requirements/build.txt "$@" >/dev/null
