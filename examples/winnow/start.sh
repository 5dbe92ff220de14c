#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh Debian 12 (Ubuntu: not tried) to a chat: installs missing packages, builds build/release/bin/winnow,
# fetches the default model once, starts. Arguments go to the program:
#
#   bash examples/winnow/start.sh                 chats
#   bash examples/winnow/start.sh -p "Hello"      answers once
#   bash examples/winnow/start.sh -m FILE.gguf    takes another model (as does WINNOW_MODEL=FILE)
#   bash examples/winnow/start.sh bench --shape 8b    measures random weights and fetches nothing
#
# WINNOW_NO_MODEL=1 ends after the build.
set -euo pipefail
# shellcheck source=examples/winnow/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install_packages_for build
build release -DWINNOW_BUILD_TESTS=OFF -DWINNOW_BUILD_BENCH=OFF
program=$root/build/release/bin/winnow
if [[ ${WINNOW_NO_MODEL:-0} == 1 ]]; then
    say "built $program"
    exit
fi

# The model goes in front unless the arguments bring one, or need none.
model=()
own_model=${WINNOW_MODEL:-${WINNOW_SHAPE:-}}
previous=
for argument; do
    case $previous in
        -p | --prompt | -sys | --system-prompt | -r | --reverse-prompt) ;;  # their value is any text
        *)
            case $argument in
                -mli) ;;
                -m* | --model | --model=* | --shape | --shape=*) own_model=given ;;
                help | -h | --help | --version | --list-devices | --policies | --completion-*) own_model=needless ;;
            esac
            ;;
    esac
    previous=$argument
done
if [[ -z $own_model ]]; then
    path=$(bash "$root/models/fetch.sh" smollm2) || exit
    model=(-m "$path")
    export WINNOW_TEMP=${WINNOW_TEMP:-0.2}  # what its makers recommend: at 0.8 so small a model talks nonsense
fi
remove_scratch  # exec runs no trap
exec "$program" "${model[@]}" "$@"
