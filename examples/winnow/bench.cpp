// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "examples/winnow/bench_report.h"
#include "examples/winnow/bench_stages.h"
#include "examples/winnow/commands.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/model_search.h"
#include "examples/winnow/split.h"
#include "examples/winnow/terminal.h"
#include "runtime/vk/device.h"
#include "runtime/vk/timed_work.h"

namespace winnow::program {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMostTokens = 1u << 24;

std::vector<std::uint32_t> parse_list(const std::vector<std::string>& texts, const char* flag) {
    std::vector<std::uint32_t> values;
    for (const std::string& text : texts) {
        for (const std::string& part : split(text, ',')) {
            std::uint32_t value = 0;
            const char* end = part.data() + part.size();
            const auto [stop, error] = std::from_chars(part.data(), end, value);
            if (error != std::errc{} || stop != end || value > kMostTokens) {
                throw Error(ErrorCode::kInvalidArgument,
                            fmt::format("{} {}: give numbers of tokens up to {}, separated by commas", flag, text,
                                        kMostTokens));
            }
            values.push_back(value);
        }
    }
    return values;
}

std::vector<BenchTest> make_tests(const BenchFlags& flags) {
    const bool only_pairs = flags.n_prompt.empty() && flags.n_gen.empty() && !flags.pairs.empty();
    std::vector<std::uint32_t> prompts = parse_list(flags.n_prompt, "-p");
    std::vector<std::uint32_t> gens = parse_list(flags.n_gen, "-n");
    std::vector<std::uint32_t> depths = parse_list(flags.depths, "-d");
    if (flags.n_prompt.empty() && !only_pairs) prompts = {512};
    if (flags.n_gen.empty() && !only_pairs) gens = {128};
    if (depths.empty()) depths = {0};
    std::vector<BenchTest> tests;
    for (const std::uint32_t depth : depths) {
        for (const std::uint32_t n : prompts) {
            if (n != 0) tests.push_back({n, 0, depth});
        }
        for (const std::uint32_t n : gens) {
            if (n != 0) tests.push_back({0, n, depth});
        }
        for (const std::string& text : flags.pairs) {
            const std::vector<std::uint32_t> pair = parse_list({text}, "-pg");
            if (pair.size() != 2 || pair[0] + pair[1] == 0) {
                throw Error(ErrorCode::kInvalidArgument,
                            fmt::format("-pg {}: give two numbers, as in -pg 512,128", text));
            }
            tests.push_back({pair[0], pair[1], depth});
        }
    }
    if (tests.empty()) throw Error(ErrorCode::kInvalidArgument, "nothing to measure: -p and -n are both 0");
    return tests;
}

std::string utc_now() {
    const std::time_t now = std::time(nullptr);
    std::tm utc = {};
    gmtime_r(&now, &utc);
    char text[32];
    return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

class Runner {
public:
    explicit Runner(Session& session) : session_(session) {}

    /// Seconds of one run. Filling the cache up to the depth is not counted.
    double run(const BenchTest& test) {
        go_to(test.n_depth);
        const Clock::time_point begin = Clock::now();
        if (test.n_prompt != 0) prefill(test.n_prompt);
        if (test.n_gen != 0) generate(test.n_gen);
        return std::chrono::duration<double>(Clock::now() - begin).count();
    }

    /// Stages of the step in the middle of the test. `report` is of a run of it.
    std::vector<StageRow> stages(const BenchTest& test, const StageWeights& weights, const SparseReport& report,
                                 KvType type) {
        go_to(test.n_depth + test.n_gen / 2);
        return time_stages(session_, weights, report, type);
    }

private:
    TokenId random_token() { return static_cast<TokenId>(random_() % session_.shape().n_vocab); }

    // A deep cache need not be computed: its content is random, as the weights of a shape are.
    void go_to(std::uint32_t n_depth) {
        if (n_depth == n_assumed_ && session_.n_cached() >= n_depth && session_.truncate(n_depth) == n_depth) return;
        session_.truncate(0);
        if (n_depth != 0) session_.assume_cached(n_depth);
        n_assumed_ = n_depth;
    }

    void prefill(std::uint32_t n) {
        std::vector<TokenId> tokens(n);
        std::generate(tokens.begin(), tokens.end(), [this] { return random_token(); });
        session_.prefill(tokens, [](std::uint32_t, std::uint32_t) { return !interrupted(); });
        throw_if_interrupted();
    }

    // Greedy and without stop tokens, so that every run has the same length.
    void generate(std::uint32_t n) {
        SamplingOptions greedy;
        greedy.temperature = 0;
        const TokenId first = random_token();
        session_.start(std::span(&first, 1), greedy, {}, n);
        for (std::uint32_t i = 0; i < n; ++i) {
            if (!session_.next()) throw Error(ErrorCode::kInternal, "decode ended before the bench did");
            throw_if_interrupted();
        }
        session_.finish();
    }

    Session& session_;
    std::uint32_t n_assumed_ = 0;  // tokens that assume_cached() put at the start of the cache
    std::mt19937 random_{1};
};

// The model of -m, or random weights.
ModelSource open_subject(const Options& options) {
    if (!options.shape.empty()) return open_shape(options, true);
    if (options.model.empty())
        throw Error(ErrorCode::kInvalidArgument,
                    "no model: give one with -m FILE.gguf, or random weights with --shape 8b");
    return open_model(find_model(options.model).string());
}

// Measured before the model is loaded, with the device closed again, so that its buffers take no room from it.
double measure_copy(const Options& options) {
    DeviceOptions device;
    device.select = options.device;
    return vk::measure_copy_bandwidth(*vk::Device::open(device));
}

// A shorter test of the same kind: compiles pipelines. A GPU gets as many as raise its clocks: an H200 that was idle for
// some seconds runs the first third of a second at a third of its speed.
void warm_up(Runner& runner, const BenchTest& test, bool is_cpu) {
    constexpr double kSeconds = 0.6;
    const BenchTest shorter{test.n_prompt, std::min(test.n_gen, 4u), test.n_depth};
    for (double seconds = 0; seconds < kSeconds;) {
        seconds += runner.run(shorter);
        if (is_cpu) return;
    }
}

}  // namespace

int run_bench(const Options& options) {
    const std::vector<BenchTest> tests = make_tests(options.bench);
    std::uint64_t n_ctx = 0;
    for (const BenchTest& test : tests) {
        n_ctx = std::max(n_ctx, std::uint64_t{test.n_prompt} + test.n_gen + test.n_depth);
    }
    const std::string name = "random " + options.shape;
    ModelSource model = open_subject(options);
    if (const std::uint32_t n_trained = model.shape.n_ctx_train; n_ctx > n_trained) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("the longest test has {} tokens but the model was trained for {}: "
                                "lower -p, -n or -d",
                                n_ctx, n_trained));
    }
    const ModelFacts facts = model.file ? model_facts(*model.file) : model_facts(model, name);
    const std::string file = model.file ? model.file->path().string() : name;
    const StageWeights weights(model);
    const double copy_speed = options.bench.stages ? measure_copy(options) : 0;
    const std::unique_ptr<Session> session = open_session(options, std::move(model), static_cast<std::uint32_t>(n_ctx));
    const bool sparse = !session->sparse_policy().is_dense();
    const BenchSubject subject{file,
                               facts,
                               session->device(),
                               options.n_batch,
                               session->n_chunk(),
                               options.n_chunk != 0,
                               options.cache_type_k,
                               options.cache_type_v,
                               session->sparse_policy(),
                               sparse_options(options).audit_every != 0,
                               copy_speed};
    BenchReport report(options.bench.output, subject), second_report(options.bench.output_err, subject);
    Runner runner(*session);
    write_out(report.begin());
    write_err(second_report.begin());
    for (std::size_t i = 0; i < tests.size(); ++i) {
        const BenchTest& test = tests[i];
        if (options.warmup) warm_up(runner, test, session->device().type == DeviceType::kCpu);
        BenchResult result;
        result.test = test;
        result.test_time = utc_now();
        for (std::uint32_t repetition = 0; repetition < options.bench.repetitions; ++repetition) {
            result.seconds.push_back(runner.run(test));
        }
        const SparseReport read = session->sparse_report();
        if (sparse && test.n_gen != 0) result.sparse = read;
        if (test.n_prompt == 0) {
            result.bytes_per_token = facts.step_bytes + static_cast<std::uint64_t>(read.kv_bytes_per_token);
        }
        if (options.bench.stages && test.n_prompt == 0)
            result.stages = runner.stages(test, weights, read, kv_type(options));
        write_out(report.line(result, i == 0));
        write_err(second_report.line(result, i == 0));
    }
    write_out(report.end());
    write_err(second_report.end());
    return 0;
}

}  // namespace winnow::program
