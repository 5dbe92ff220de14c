// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <random>
#include <string_view>

#include "examples/winnow/terminal.h"
#include "winnow/error.h"
#include "winnow/session.h"

namespace winnow::program {
namespace {

// One adjustable number: its name in /set, its key in a model, its range, and where it goes.
struct Setting {
    std::string_view name;
    std::string_view model_key;
    double least;
    double most;
    bool whole;
    void (*assign)(SamplingOptions&, double, std::uint32_t n_ctx);
};

std::uint32_t count_or_off(double value) { return value < 0 ? 0u : static_cast<std::uint32_t>(value); }

constexpr double kMostCount = 1 << 30;
constexpr double kMostSeed = 9007199254740992.0;  // 2^53, what a double holds exactly

constexpr std::array<Setting, 7> kSettings = {{
    {"temp", "general.sampling.temp", 0, 1000, false,
     [](SamplingOptions& s, double v, std::uint32_t) { s.temperature = static_cast<float>(v); }},
    {"top_k", "general.sampling.top_k", -1, kMostCount, true,
     [](SamplingOptions& s, double v, std::uint32_t) { s.top_k = count_or_off(v); }},
    {"top_p", "general.sampling.top_p", 0, 1, false,
     [](SamplingOptions& s, double v, std::uint32_t) { s.top_p = static_cast<float>(v); }},
    {"min_p", "general.sampling.min_p", 0, 1, false,
     [](SamplingOptions& s, double v, std::uint32_t) { s.min_p = static_cast<float>(v); }},
    {"repeat_penalty", "general.sampling.penalty_repeat", 0.01, 100, false,
     [](SamplingOptions& s, double v, std::uint32_t) { s.repeat_penalty = static_cast<float>(v); }},
    {"repeat_last_n", "general.sampling.penalty_last_n", -1, kMostRepeatTokens, true,
     [](SamplingOptions& s, double v, std::uint32_t n_ctx) {
         s.repeat_last_n = v < 0 ? std::min(n_ctx, kMostRepeatTokens) : count_or_off(v);
     }},
    {"seed", "", -1, kMostSeed, true,
     [](SamplingOptions& s, double v, std::uint32_t) {
         s.seed = v < 0 ? random_seed() : static_cast<std::uint64_t>(v);
     }},
}};

bool fits(const Setting& setting, double value) {
    return value >= setting.least && value <= setting.most && (!setting.whole || std::floor(value) == value);
}

const Setting& find_setting(std::string_view name) {
    for (const Setting& setting : kSettings) {
        if (setting.name == name) return setting;
    }
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("'{}' is no setting: temp, top_k, top_p, min_p, repeat_penalty, repeat_last_n, seed, n", name));
}

template <class T>
void apply_flag(SamplingOptions& sampling, std::string_view name, const std::optional<T>& value, std::uint32_t n_ctx) {
    if (value) find_setting(name).assign(sampling, static_cast<double>(*value), n_ctx);
}

}  // namespace

SamplingOptions resolve_sampling(const SamplingFlags& flags, const GgufFile& file, std::uint32_t n_ctx) {
    SamplingOptions sampling;
    for (const Setting& setting : kSettings) {
        if (setting.model_key.empty()) continue;
        const std::optional<double> value = file.find_float(setting.model_key);
        if (!value) continue;
        if (setting.name == "repeat_last_n" && *value > kMostRepeatTokens) {
            setting.assign(sampling, kMostRepeatTokens, n_ctx);  // the file's wish as far as it goes
        } else if (fits(setting, *value)) {
            setting.assign(sampling, *value, n_ctx);
        } else {
            log_warning(fmt::format("the model's {} = {} is not {} to {}: not used", setting.model_key, *value,
                                    setting.least, setting.most));
        }
    }
    apply_flag(sampling, "temp", flags.temperature, n_ctx);
    apply_flag(sampling, "top_k", flags.top_k, n_ctx);
    apply_flag(sampling, "top_p", flags.top_p, n_ctx);
    apply_flag(sampling, "min_p", flags.min_p, n_ctx);
    apply_flag(sampling, "repeat_penalty", flags.repeat_penalty, n_ctx);
    apply_flag(sampling, "repeat_last_n", flags.repeat_last_n, n_ctx);
    sampling.seed = flags.seed.value_or(random_seed());
    log_info("sampling: " + describe_sampling(sampling));
    return sampling;
}

void set_sampling(SamplingOptions& sampling, const std::string& key, const std::string& value, std::uint32_t n_ctx) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '-', '_');
    if (name == "temperature") name = "temp";
    const Setting& setting = find_setting(name);
    double number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc{} || end != value.data() + value.size() || !fits(setting, number)) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("{} = '{}': give a {} from {} to {}", name, value,
                                setting.whole ? "whole number" : "number", setting.least, setting.most));
    }
    setting.assign(sampling, number, n_ctx);
}

std::string describe_sampling(const SamplingOptions& s) {
    return fmt::format("repeat_penalty={} repeat_last_n={} top_k={} top_p={} min_p={} temp={} seed={}",
                       s.repeat_penalty, s.repeat_last_n, s.top_k, s.top_p, s.min_p, s.temperature, s.seed);
}

std::uint64_t random_seed() { return std::random_device{}(); }

}  // namespace winnow::program
