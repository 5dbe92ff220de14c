// SPDX-License-Identifier: Apache-2.0
// Stage benches: GPU time of one dispatch with the barrier after it, bytes moved, share of the copy bandwidth of the
// same run. With --table as Markdown, a table for each stage; everything else is Google Benchmark's.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <string_view>

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "bench/support/table_reporter.h"
#include "winnow/error.h"

int main(int argc, char** argv) {
    try {
        char** const end = std::remove(argv + 1, argv + argc, std::string_view("--table"));
        const bool as_table = end != argv + argc;
        argc = static_cast<int>(end - argv);
        benchmark::Initialize(&argc, argv);
        if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
        winnow::bench::Bench::get();
        winnow::bench::register_all();
        winnow::bench::TableReporter table;
        if (as_table) benchmark::RunSpecifiedBenchmarks(&table);
        else benchmark::RunSpecifiedBenchmarks();
        benchmark::Shutdown();
        return winnow::bench::Bench::get().all_right() ? 0 : 1;
    } catch (const winnow::Error& error) {
        std::fprintf(stderr, "winnow_bench: error: %s\n", error.what());
        return winnow::exit_status(error.code());
    }
}
