// SPDX-License-Identifier: Apache-2.0
#include "bench/support/table_reporter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "bench/support/gpu_bench.h"

namespace winnow::bench {
namespace {

struct Place {
    std::string stage, row, column;
};

void append(std::string& text, const std::string& part) { text += (text.empty() ? "" : " ") + part; }

Place place_of(const std::string& name) {
    std::vector<std::string> parts;
    std::istringstream in(name);
    for (std::string part; std::getline(in, part, '/');)
        if (part != "manual_time" && !part.starts_with("iterations:") && !part.starts_with("repeats:"))
            parts.push_back(part);
    const auto is_column = [](const std::string& part) {
        return part.starts_with("kv:") || part.starts_with("n_tokens:");
    };
    const bool has_columns = std::any_of(parts.begin(), parts.end(), is_column);
    Place place{parts[0], {}, {}};
    for (std::size_t i = 1; i < parts.size(); ++i)
        append(has_columns ? is_column(parts[i]) ? place.column : place.row
               : i == 1    ? place.column
                           : place.row,
               parts[i]);
    return place;
}

std::string cell_of(const benchmark::BenchmarkReporter::Run& run) {
    const auto counter = [&](const char* name) {
        const auto at = run.counters.find(name);
        return at == run.counters.end() ? 0.0 : at->second.value;
    };
    const std::string microseconds = fmt::format("{:.1f}", run.GetAdjustedRealTime());
    if (counter("TFLOP/s") != 0) return fmt::format("{} / {:.1f} TFLOP/s", microseconds, counter("TFLOP/s"));
    if (counter("share_of_copy") != 0)
        return fmt::format("{} / {:.0f} / {:.0f} %", microseconds, counter("bytes_per_second") * 1e-9,
                           counter("share_of_copy") * 100);
    return microseconds;
}

void add_once(std::vector<std::string>& list, const std::string& text) {
    if (std::find(list.begin(), list.end(), text) == list.end()) list.push_back(text);
}

}  // namespace

bool TableReporter::ReportContext(const Context&) {
    Bench& b = Bench::get();
    fmt::print("{}, {}; copy {:.0f} GB/s\nCells: us / GB/s / share of the copy's GB/s.\n", b.device().info().name,
               b.device().info().driver, b.copy_bytes_per_second() * 1e-9);
    return true;
}

void TableReporter::ReportRuns(const std::vector<Run>& runs) {
    for (const Run& run : runs) {
        if (run.run_type != Run::RT_Iteration) continue;
        const Place place = place_of(run.benchmark_name());
        if (place.stage != stage_) print();
        stage_ = place.stage;
        add_once(rows_, place.row);
        add_once(columns_, place.column);
        cells_[{place.row, place.column}] = run.error_occurred ? "-" : cell_of(run);
        if (run.error_occurred) notes_.push_back(fmt::format("{} {}: {}", place.row, place.column, run.error_message));
    }
}

void TableReporter::Finalize() { print(); }

void TableReporter::print() {
    if (rows_.empty()) return;
    std::string line = "\n| " + stage_ + " |", rule = "| --- |";
    for (const std::string& column : columns_) {
        line += " " + column + " |";
        rule += " ---: |";
    }
    fmt::print("{}\n{}\n", line, rule);
    for (const std::string& row : rows_) {
        line = "| " + row + " |";
        for (const std::string& column : columns_) line += " " + cells_[{row, column}] + " |";
        fmt::print("{}\n", line);
    }
    for (const std::string& note : notes_) fmt::print("{}\n", note);
    std::fflush(stdout);
    rows_.clear();
    columns_.clear();
    cells_.clear();
    notes_.clear();
}

}  // namespace winnow::bench
