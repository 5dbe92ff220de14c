// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/bench_report.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace winnow::program {
namespace {

// Keeps the order in which the fields are written, for the columns of csv.
using Fields = nlohmann::ordered_json;

struct Spread {
    double mean = 0;
    double deviation = 0;
};

Spread spread(const std::vector<double>& samples) {
    Spread s;
    const auto n = static_cast<double>(samples.size());
    for (const double x : samples) s.mean += x / n;
    double squares = 0;
    for (const double x : samples) squares += (x - s.mean) * (x - s.mean);
    if (samples.size() > 1) s.deviation = std::sqrt(squares / (n - 1));
    return s;
}

std::vector<double> tokens_per_second(const BenchResult& result) {
    std::vector<double> rates;
    for (const double seconds : result.seconds)
        rates.push_back((result.test.n_prompt + result.test.n_gen) / seconds);
    return rates;
}

std::string cpu_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (!line.starts_with("model name")) continue;
        const std::size_t at = line.find(": ");
        if (at != std::string::npos) return line.substr(at + 2);
    }
    return "unknown";
}

// llama-bench's names, so that scripts for it read these too, and some more.
Fields fields(const BenchSubject& subject, const BenchResult& result) {
    std::vector<double> nanoseconds;
    for (const double seconds : result.seconds) nanoseconds.push_back(std::round(seconds * 1e9));
    const std::vector<double> rates = tokens_per_second(result);
    const Spread time = spread(nanoseconds);
    const Spread rate = spread(rates);
    const double best = *std::max_element(rates.begin(), rates.end());
    const DriverName driver = split_driver(subject.device.driver);
    const std::vector<std::uint64_t> whole(nanoseconds.begin(), nanoseconds.end());
    Fields object = {{"build_commit", WINNOW_VERSION},
                     {"build_number", 0},
                     {"cpu_info", cpu_name()},
                     {"gpu_info", subject.device.name},
                     {"backends", "Vulkan"},
                     {"model_filename", subject.model_file},
                     {"model_type", subject.facts.type},
                     {"model_size", subject.facts.tensor_bytes},
                     {"model_n_params", subject.facts.n_params},
                     {"n_ubatch", subject.n_chunk},
                     {"type_k", subject.type_k},
                     {"type_v", subject.type_v},
                     {"n_gpu_layers", -1},
                     {"driver", driver.name},
                     {"driver_version", driver.version},
                     {"n_prompt", result.test.n_prompt},
                     {"n_gen", result.test.n_gen},
                     {"n_depth", result.test.n_depth},
                     {"test_time", result.test_time},
                     {"avg_ns", static_cast<std::uint64_t>(time.mean)},
                     {"stddev_ns", static_cast<std::uint64_t>(time.deviation)},
                     {"avg_ts", rate.mean},
                     {"stddev_ts", rate.deviation},
                     {"best_ts", best},
                     {"bytes_per_token", result.bytes_per_token},
                     {"gbps", static_cast<double>(result.bytes_per_token) * rate.mean / 1e9},
                     {"samples_ns", whole},
                     {"samples_ts", rates}};
    for (const Session::StageTime& stage : result.stages)
        object["stages_us"][stage.stage] = stage.microseconds;
    return object;
}

std::string stage_lines(const BenchResult& result) {
    std::string text;
    double sum = 0;
    for (const Session::StageTime& stage : result.stages) {
        text += fmt::format("| {:>20} | {:<24} | {:>12.1f} |\n", result.test.name(), stage.stage,
                            stage.microseconds);
        sum += stage.microseconds;
    }
    if (!text.empty())
        text += fmt::format("| {:>20} | {:<24} | {:>12.1f} |\n", result.test.name(), "all", sum);
    return text;
}

std::string dump(const Fields& object, int indent) {
    return object.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string csv_cell(const Fields& value) {
    const std::string text = value.is_string() ? value.get<std::string>() : dump(value, -1);
    std::string cell = "\"";
    for (const char c : text) {
        if (c == '"') cell += '"';
        cell += c;
    }
    return cell += '"';
}

bool is_csv_column(const std::string& name) {
    return !name.starts_with("samples_") && name != "stages_us";
}

constexpr const char* kRow =
    "| {:<24} | {:>10} | {:>10} | {:<7} | {:>3} | {:>20} | {:>18} | {:>9} | {:>7} |\n";

std::string markdown_line(const BenchSubject& subject, const BenchResult& result) {
    const std::vector<double> rates = tokens_per_second(result);
    const Spread rate = spread(rates);
    const double gbps = static_cast<double>(result.bytes_per_token) * rate.mean / 1e9;
    return fmt::format(kRow, subject.facts.type, size_text(subject.facts.tensor_bytes),
                       params_text(subject.facts.n_params), "Vulkan", "all", result.test.name(),
                       fmt::format("{:.2f} ± {:.2f}", rate.mean, rate.deviation),
                       fmt::format("{:.2f}", *std::max_element(rates.begin(), rates.end())),
                       result.bytes_per_token == 0 ? "" : fmt::format("{:.2f}", gbps));
}

}  // namespace

std::string BenchTest::name() const {
    std::string text;
    if (n_prompt != 0) text = fmt::format("pp{}", n_prompt);
    if (n_gen != 0) text += fmt::format("{}tg{}", text.empty() ? "" : "+", n_gen);
    return n_depth == 0 ? text : fmt::format("{} @ d{}", text, n_depth);
}

std::string BenchReport::begin() const {
    if (format_ == "json") return "[\n";
    if (format_ != "md") return "";
    return fmt::format(kRow, "model", "size", "params", "backend", "ngl", "test", "t/s", "best t/s",
                       "GB/s") +
           fmt::format(
               "| {:-<24} | {:->9}: | {:->9}: | {:-<7} | {:->2}: | {:->19}: | {:->17}: | {:->8}: | "
               "{:->6}: |\n",
               "", "", "", "", "", "", "", "", "");
}

std::string BenchReport::line(const BenchResult& result, bool is_first) {
    if (format_ == "md") {
        stage_table_ += stage_lines(result);
        return markdown_line(subject_, result);
    }
    const Fields object = fields(subject_, result);
    if (format_ == "jsonl") return dump(object, -1) + "\n";
    if (format_ == "json") return fmt::format("{}{}", is_first ? "" : ",\n", dump(object, 2));
    std::string header;
    std::string row;
    for (const auto& [name, value] : object.items()) {
        if (!is_csv_column(name)) continue;
        const char* separator = header.empty() ? "" : ",";
        header.append(separator).append(name);
        row.append(separator).append(csv_cell(value));
    }
    return is_first ? fmt::format("{}\n{}\n", header, row) : fmt::format("{}\n", row);
}

std::string BenchReport::end() const {
    if (format_ == "json") return "\n]\n";
    if (format_ == "md") {
        const std::string head =
            fmt::format("\n| {:>20} | {:<24} | {:>12} |\n| {:->19}: | {:-<24} | {:->11}: |\n",
                        "test", "stage of a decode step", "us", "", "", "");
        return (stage_table_.empty() ? "" : head + stage_table_) +
               fmt::format("\nwinnow {} on {} ({})\n", WINNOW_VERSION, subject_.device.name,
                           subject_.device.driver);
    }
    return "";
}

}  // namespace winnow::program
