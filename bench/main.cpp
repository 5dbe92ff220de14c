// SPDX-License-Identifier: Apache-2.0
// Stage benches: GPU time of one dispatch with the barrier after it, bytes moved, share of the copy bandwidth of the
// same run.
#include <benchmark/benchmark.h>

#include <cstdio>

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "winnow/error.h"

int main(int argc, char** argv) {
    try {
        benchmark::Initialize(&argc, argv);
        winnow::bench::Bench::get();
        winnow::bench::register_all();
        benchmark::RunSpecifiedBenchmarks();
        benchmark::Shutdown();
        return winnow::bench::Bench::get().all_right() ? 0 : 1;
    } catch (const winnow::Error& error) {
        std::fprintf(stderr, "winnow_bench: error: %s\n", error.what());
        return winnow::exit_status(error.code());
    }
}
