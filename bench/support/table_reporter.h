// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

namespace winnow::bench {

/// Prints a Markdown table for each stage as soon as it is done. Of a bench's name, parted by '/', the first part is
/// the stage; kv:TYPE and n_tokens:N name the column, or else the second part (the shape) does; the others name the
/// row.
class TableReporter : public benchmark::BenchmarkReporter {
public:
    bool ReportContext(const Context& context) override;
    void ReportRuns(const std::vector<Run>& runs) override;
    void Finalize() override;

private:
    void print();

    std::string stage_;
    std::vector<std::string> rows_, columns_;  // in the order in which they came
    std::map<std::pair<std::string, std::string>, std::string> cells_;
    std::vector<std::string> notes_;  // why there is no figure
};

}  // namespace winnow::bench
