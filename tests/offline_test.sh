#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What tests/run.sh relies on where nothing can be downloaded: the tests that need a model are skipped, and the summary names
# each with its reason.
#
#   offline_test.sh TEST_MODELS    the program of tests/models
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
test_models=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() {
    echo "$*" >&2
    exit 1
}

mkdir "$folder/models"
WINNOW_TEST_MODELS=$folder/models "$test_models" --gtest_filter='Golden.*:TextStream*' >"$folder/log" 2>&1 ||
    fail "tests fail without models:" "$(tail -20 "$folder/log")"
awk -f "$tests/skipped.awk" "$folder/log" >"$folder/summary"
grep -qxF "skipped Golden.Smollm2: SmolLM2-135M-Instruct.Q4_1.gguf is not in WINNOW_TEST_MODELS" "$folder/summary" ||
    fail "the summary does not name Golden.Smollm2 and its reason:" "$(cat "$folder/summary")"
n_listed=$("$test_models" --gtest_filter='Golden.*' --gtest_list_tests | grep -c '^  ')
n_skipped=$(wc -l <"$folder/summary")
((n_skipped == n_listed)) || fail "$n_listed tests need a model but $n_skipped are listed:" "$(cat "$folder/summary")"
grep -q '^\[  PASSED  \] [1-9]' "$folder/log" || fail "no test ran that needs no model"
