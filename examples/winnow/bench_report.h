// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "examples/winnow/bench_stages.h"
#include "examples/winnow/model_facts.h"
#include "examples/winnow/options.h"
#include "winnow/session.h"
#include "winnow/sparse.h"

namespace winnow::program {

/// One line of a bench: prefill n_prompt tokens, then generate n_gen, after n_depth tokens.
struct BenchTest {
    std::uint32_t n_prompt = 0;
    std::uint32_t n_gen = 0;
    std::uint32_t n_depth = 0;
    std::string name() const;  ///< "pp512", "tg128 @ d32768", "pp512+tg128"
};

struct BenchResult {
    BenchTest test;
    std::vector<double> seconds;         ///< of each run
    std::uint64_t bytes_per_token = 0;   ///< read by one decode step in the middle of the test; 0 for prefill
    std::string test_time;               ///< UTC, ISO 8601, when the test began
    std::vector<StageRow> stages;        ///< of a decode step in the middle; empty unless asked for
    std::optional<SparseReport> sparse;  ///< of the last run; none for prefill and without --sparse
};

/// What is the same for all tests.
struct BenchSubject {
    std::string model_file;
    ModelFacts facts;
    DeviceInfo device;
    std::uint32_t n_batch = 0;  ///< as given; 0 = not
    std::uint32_t n_chunk = 0;  ///< of the session
    bool chunk_given = false;   ///< by -ub
    std::string type_k;
    std::string type_v;
    SparsePolicy policy;  ///< what --sparse became
    bool audited = false;
    double copy_speed = 0;  ///< bytes per second; 0 = not measured
};

/// Prints results as they come in the format of -o or -oe: md, csv, json, jsonl, sql or none.
class BenchReport {
public:
    BenchReport(std::string format, BenchSubject subject) : format_(std::move(format)), subject_(std::move(subject)) {}
    std::string begin() const;
    std::string line(const BenchResult& result, bool is_first);
    std::string end() const;

private:
    std::string format_;
    BenchSubject subject_;
    std::string stage_table_;  ///< of the markdown form, printed at the end
};

}  // namespace winnow::program
