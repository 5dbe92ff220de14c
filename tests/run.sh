#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds, and runs all tests on lavapipe, the software Vulkan driver.
#
#   bash tests/run.sh [release|dev|asan|validate] [CTEST ARGUMENT...]
#
# WINNOW_TEST_OFFLINE=1     download nothing; tests that need a real model are skipped, and named at the end
# WINNOW_TEST_MODELS=DIR    take the models from there, download none
# WINNOW_TEST_DEVICE=any    whatever device the machine has in place of lavapipe
# WINNOW_TEST_VALIDATION=0  test without the Vulkan validation layer, which tests need otherwise
set -euo pipefail
# shellcheck source=examples/winnow/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../examples/winnow/lib.sh"

preset=${1:-release}
shift $(($# > 0))
case $preset in
    release | dev | asan | validate) ;;
    *)
        say "usage: bash tests/run.sh [release|dev|asan|validate] [CTEST ARGUMENT...]"
        exit 2
        ;;
esac
offline=${WINNOW_TEST_OFFLINE:-0}
if [[ $offline == 1 ]]; then export WINNOW_NO_DOWNLOAD=1; fi

install_packages_for tests
build "$preset" -DWINNOW_BUILD_TESTS=ON -DWINNOW_BUILD_BENCH=ON

# ctest runs them from other directories than this one.
if [[ -n ${WINNOW_TEST_MODELS:-} ]]; then
    WINNOW_TEST_MODELS=$(cd "$WINNOW_TEST_MODELS" && pwd) || fail "WINNOW_TEST_MODELS is no directory: give one with the models"
    export WINNOW_TEST_MODELS
fi

# The tests see one directory with both models in it, under the files' own names.
if [[ -z ${WINNOW_TEST_MODELS:-} ]]; then
    export WINNOW_TEST_MODELS=$root/build/$preset/test_models
    rm -rf "$WINNOW_TEST_MODELS"
    mkdir -p "$WINNOW_TEST_MODELS"
    for model in smollm2 gemma3; do
        if [[ $offline != 1 ]] && path=$(bash "$root/models/fetch.sh" "$model"); then
            ln -s "$path" "$WINNOW_TEST_MODELS/"
        else
            say "no model $model: the tests that need it are skipped"
        fi
    done
fi

if [[ ${WINNOW_TEST_DEVICE:-lavapipe} != any ]]; then
    drivers=(/usr/share/vulkan/icd.d/lvp_icd*.json)
    [[ -f ${drivers[0]} ]] || fail "lavapipe is not installed: apt-get install mesa-vulkan-drivers"
    export VK_DRIVER_FILES=${drivers[0]} VK_ICD_FILENAMES=${drivers[0]}  # the loader's new and old name for it
fi
if [[ $preset == asan ]]; then
    # The driver leaks and is unloaded before its leaks could be told from ours.
    export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
    export UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}
fi

log=$root/build/$preset/ctest.log
status=0
ctest --test-dir "$root/build/$preset" --parallel "$(nproc)" --output-on-failure --no-tests=error --timeout 3000 "$@" 2>&1 | tee "$log" ||
    status=$?

awk -f "$root/tests/skipped.awk" "$root/build/$preset/Testing/Temporary/LastTest.log" 2>/dev/null || true
awk '/tests passed,/,0' "$log"
exit "$status"
