// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "winnow/version.h"

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
    for (const double seconds : result.seconds) rates.push_back((result.test.n_prompt + result.test.n_gen) / seconds);
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

// Null where there is nothing to say, so that all rows have the same columns.
void add_sparse(Fields& object, const BenchSubject& subject, const BenchResult& result) {
    const SparsePolicy& policy = subject.policy;
    object["sparse"] = policy.is_dense() ? "off" : policy.name;
    object["sparse_mass"] = nullptr;
    object["sparse_budget"] = nullptr;
    if (!policy.levels.empty()) {
        const SelectLevel& level = policy.levels.back();
        // A float's nearest double has digits that nobody gave.
        if (level.rule == BudgetRule::kTopP)
            object["sparse_mass"] = std::round(1e6 * static_cast<double>(level.mass)) / 1e6;
        if (level.budget != 0) object["sparse_budget"] = level.budget;
    }
    for (const char* name : {"sparse_kept", "captured_mass", "captured_mass_p5", "captured_mass_min"})
        object[name] = nullptr;
    if (!result.sparse) return;
    const SparseReport& report = *result.sparse;
    object["sparse_kept"] = report.attended_share;
    if (report.n_audits == 0) return;
    object["captured_mass"] = report.mass_mean;
    object["captured_mass_p5"] = report.mass_p5;
    object["captured_mass_min"] = report.mass_min;
}

double share_of_copy(const BenchSubject& subject, const StageRow& row) {
    return subject.copy_speed > 0 ? row.gbps() * 1e9 / subject.copy_speed : 0;
}

void add_stages(Fields& object, const BenchSubject& subject, const BenchResult& result) {
    object["copy_gbps"] = subject.copy_speed / 1e9;
    for (const StageRow& row : result.stages) {
        object["stages_us"][row.stage] = row.microseconds;
        object["stages"].push_back({{"stage", row.stage},
                                    {"us", row.microseconds},
                                    {"dispatches", row.n_dispatches},
                                    {"bytes", row.bytes},
                                    {"gbps", row.gbps()},
                                    {"share_of_copy", share_of_copy(subject, row)}});
    }
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
    Fields object = {{"build_commit", WINNOW_BUILD_COMMIT},
                     {"build_number", 0},
                     {"winnow_version", version().text},
                     {"cpu_info", cpu_name()},
                     {"gpu_info", subject.device.name},
                     {"backends", "Vulkan"},
                     {"model_filename", subject.model_file},
                     {"model_type", subject.facts.type},
                     {"model_size", subject.facts.tensor_bytes},
                     {"model_n_params", subject.facts.n_params},
                     {"n_batch", subject.n_batch},
                     {"n_ubatch", subject.n_chunk},
                     {"type_k", subject.type_k},
                     {"type_v", subject.type_v},
                     {"n_gpu_layers", -1},
                     {"driver", driver.name},
                     {"driver_version", driver.version},
                     {"device_uuid", subject.device.uuid},
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
    add_sparse(object, subject, result);
    if (!result.stages.empty()) add_stages(object, subject, result);
    return object;
}

std::string dump(const Fields& object, int indent) {
    return object.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string csv_cell(const Fields& value) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.is_null() ? "" : dump(value, -1);
    std::string cell = "\"";
    for (const char c : text) {
        if (c == '"') cell += '"';
        cell += c;
    }
    return cell += '"';
}

bool is_column(const std::string& name) {
    return !name.starts_with("samples_") && name != "stages_us" && name != "stages" && name != "copy_gbps";
}

// Texts in quotes, all else as it is.
std::string sql_value(const Fields& value) {
    if (value.is_null()) return "NULL";
    if (!value.is_string()) return dump(value, -1);
    std::string text = "'";
    for (const char c : value.get<std::string>()) {
        if (c == '\'') text += c;
        text += c;
    }
    return text + "'";
}

// llama-bench's table, for what reads that.
std::string sql_line(const Fields& object, bool is_first) {
    std::string columns, names, values;
    for (const auto& [name, value] : object.items()) {
        if (!is_column(name)) continue;
        const char* type = value.is_string() ? "TEXT" : value.is_number_integer() ? "INTEGER" : "REAL";
        columns += fmt::format("{}  {} {}", columns.empty() ? "" : ",\n", name, type);
        names += (names.empty() ? "" : ", ") + name;
        values += (values.empty() ? "" : ", ") + sql_value(value);
    }
    const std::string table =
        is_first ? fmt::format("CREATE TABLE IF NOT EXISTS llama_bench (\n{}\n);\n\n", columns) : std::string();
    return table + fmt::format("INSERT INTO llama_bench ({}) VALUES ({});\n", names, values);
}

// A markdown table whose columns are as wide as their widths say; names that begin with '<' are
// aligned to the left.
struct Column {
    std::string name;
    int width;
};
std::string table_row(const std::vector<Column>& columns, const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t i = 0; i < columns.size(); ++i) {
        const bool left = columns[i].name.starts_with('<');
        line += left ? fmt::format("| {:<{}} ", cells[i], columns[i].width)
                     : fmt::format("| {:>{}} ", cells[i], columns[i].width);
    }
    return line + "|\n";
}
std::string table_head(const std::vector<Column>& columns) {
    std::vector<std::string> names;
    std::string rule;
    for (const Column& column : columns) {
        const bool left = column.name.starts_with('<');
        names.push_back(column.name.substr(left ? 1 : 0));
        const std::string dashes(static_cast<std::size_t>(column.width - (left ? 0 : 1)), '-');
        rule += fmt::format("| {}{} ", dashes, left ? "" : ":");
    }
    return table_row(columns, names) + rule + "|\n";
}

// Settings that are not the defaults: a column and its cell.
std::vector<std::pair<Column, std::string>> changed_settings(const BenchSubject& subject) {
    std::vector<std::pair<Column, std::string>> changed;
    if (subject.n_batch != 0) changed.push_back({{"n_batch", 7}, std::to_string(subject.n_batch)});
    if (subject.chunk_given) changed.push_back({{"n_ubatch", 8}, std::to_string(subject.n_chunk)});
    if (subject.type_k != "f16") changed.push_back({{"<type_k", 6}, subject.type_k});
    if (subject.type_v != "f16") changed.push_back({{"<type_v", 6}, subject.type_v});
    return changed;
}

std::vector<Column> result_columns(const BenchSubject& subject) {
    std::vector<Column> columns = {{"<model", 24}, {"size", 10}, {"params", 10}, {"<backend", 7}, {"ngl", 3}};
    for (const auto& [column, cell] : changed_settings(subject)) columns.push_back(column);
    if (!subject.policy.is_dense()) columns.push_back({"<sparse", 11});
    columns.insert(columns.end(), {{"test", 20}, {"t/s", 18}, {"best t/s", 9}, {"GB/s", 7}});
    if (!subject.policy.is_dense()) columns.push_back({"attended", 8});
    if (subject.audited) columns.push_back({"captured", 8});
    return columns;
}

std::string markdown_line(const BenchSubject& subject, const BenchResult& result) {
    const std::vector<double> rates = tokens_per_second(result);
    const Spread rate = spread(rates);
    const double gbps = static_cast<double>(result.bytes_per_token) * rate.mean / 1e9;
    std::vector<std::string> cells = {subject.facts.type, size_text(subject.facts.tensor_bytes),
                                      params_text(subject.facts.n_params), "Vulkan", "all"};
    for (const auto& [column, cell] : changed_settings(subject)) cells.push_back(cell);
    if (!subject.policy.is_dense()) cells.push_back(subject.policy.name);
    cells.push_back(result.test.name());
    cells.push_back(fmt::format("{:.2f} ± {:.2f}", rate.mean, rate.deviation));
    cells.push_back(fmt::format("{:.2f}", *std::max_element(rates.begin(), rates.end())));
    cells.push_back(result.bytes_per_token == 0 ? "" : fmt::format("{:.2f}", gbps));
    const bool sparse = result.sparse.has_value();
    if (!subject.policy.is_dense()) cells.push_back(sparse ? fmt::format("{:.4f}", result.sparse->attended_share) : "");
    if (subject.audited)
        cells.push_back(sparse && result.sparse->n_audits != 0 ? fmt::format("{:.4f}", result.sparse->mass_mean) : "");
    return table_row(result_columns(subject), cells);
}

const std::vector<Column> kStageColumns = {
    {"test", 20},  {"<stage of a decode step", 24}, {"dispatches", 10}, {"us", 12}, {"MB", 10}, {"GB/s", 8},
    {"of copy", 7}};

std::string stage_lines(const BenchSubject& subject, const BenchResult& result) {
    if (result.stages.empty()) return "";
    std::vector<StageRow> rows = result.stages;
    rows.push_back(total_of(result.stages));
    std::string text;
    for (const StageRow& row : rows) {
        const bool counted = row.bytes != 0;
        const double share = 100 * share_of_copy(subject, row);
        text += table_row(kStageColumns, {result.test.name(), row.stage, std::to_string(row.n_dispatches),
                                          fmt::format("{:.1f}", row.microseconds),
                                          counted ? fmt::format("{:.2f}", static_cast<double>(row.bytes) / 1e6) : "",
                                          counted ? fmt::format("{:.1f}", row.gbps()) : "",
                                          counted && subject.copy_speed > 0 ? fmt::format("{:.0f} %", share) : ""});
    }
    return text;
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
    return table_head(result_columns(subject_));
}

std::string BenchReport::line(const BenchResult& result, bool is_first) {
    if (format_ == "none") return "";
    if (format_ == "md") {
        stage_table_ += stage_lines(subject_, result);
        return markdown_line(subject_, result);
    }
    const Fields object = fields(subject_, result);
    if (format_ == "jsonl") return dump(object, -1) + "\n";
    if (format_ == "json") return fmt::format("{}{}", is_first ? "" : ",\n", dump(object, 2));
    if (format_ == "sql") return sql_line(object, is_first);
    std::string header;
    std::string row;
    for (const auto& [name, value] : object.items()) {
        if (!is_column(name)) continue;
        const char* separator = header.empty() ? "" : ",";
        header.append(separator).append(name);
        row.append(separator).append(csv_cell(value));
    }
    return is_first ? fmt::format("{}\n{}\n", header, row) : fmt::format("{}\n", row);
}

std::string BenchReport::end() const {
    if (format_ == "json") return "\n]\n";
    if (format_ == "md") {
        std::string text;
        if (!stage_table_.empty()) text.append("\n").append(table_head(kStageColumns)).append(stage_table_);
        text += fmt::format("\nwinnow {} on {} ({})", version().text, subject_.device.name, subject_.device.driver);
        if (subject_.copy_speed > 0) text += fmt::format(", which copies {:.1f} GB/s", subject_.copy_speed / 1e9);
        return text + "\n";
    }
    return "";
}

}  // namespace winnow::program
