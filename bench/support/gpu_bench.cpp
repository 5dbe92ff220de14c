// SPDX-License-Identifier: Apache-2.0
#include "bench/support/gpu_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>

#include "models/gguf.h"
#include "runtime/vk/upload.h"
#include "winnow/error.h"

namespace winnow::bench {
namespace {

constexpr double kRunMicroseconds = 5e3;
// The set-up of a bench takes far longer than its timing, and is done again for every number of iterations that the
// library tries.
constexpr int kRuns = 10, kSoftwareRuns = 2;

std::vector<Shape> read_shapes() {
    std::vector<Shape> list;
    for (const auto& entry : std::filesystem::directory_iterator(WINNOW_BENCH_SHAPES)) {
        std::ifstream in(entry.path());
        std::string line;
        while (std::getline(in, line)) {
            if (line.empty() || line[0] == '#') continue;
            Shape s;
            s.name = entry.path().stem().string();
            std::istringstream(line) >> s.n_layers >> s.n_embd >> s.n_ff >> s.n_heads >> s.n_kv_heads >> s.head_dim >>
                s.n_vocab;
            list.push_back(s);
        }
    }
    std::sort(list.begin(), list.end(), [](const Shape& a, const Shape& b) { return a.n_embd < b.n_embd; });
    return list;
}

}  // namespace

const std::vector<Shape>& shapes() {
    static const std::vector<Shape> list = [] {
        std::vector<Shape> all = read_shapes();
        if (Bench::get().device().is_cpu() && !all.empty()) all.resize(1);
        return all;
    }();
    return list;
}

Bench& Bench::get() {
    static Bench bench;
    return bench;
}

Bench::Bench() : device_(vk::Device::open({})), copy_bytes_per_second_(vk::measure_copy_bandwidth(*device_)) {
    if (copy_bytes_per_second_ <= 0)
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("'{}' has no timestamps, and benches go by them", device_->info().name));
    benchmark::AddCustomContext("device", device_->info().name + ", " + device_->info().driver);
    benchmark::AddCustomContext("copy_GB_per_s", fmt::format("{:.1f}", copy_bytes_per_second_ / 1e9));
}

benchmark::internal::Benchmark* add_bench(const std::string& name, const std::function<void(benchmark::State&)>& run) {
    const auto run_or_skip = [run](benchmark::State& state) {
        try {
            run(state);
        } catch (const Error& error) {
            if (error.code() != ErrorCode::kOutOfMemory && error.code() != ErrorCode::kUnsupported) throw;
            state.SkipWithError((std::string("skipped: ") + error.what()).c_str());
        }
    };
    return benchmark::RegisterBenchmark(name.c_str(), run_or_skip)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->Iterations(Bench::get().device().is_cpu() ? kSoftwareRuns : kRuns);
}

vk::TimedWork dispatches_in_a_row(vk::Device& device, std::uint32_t n,
                                  const std::function<void(vk::Recorder&, std::uint32_t)>& record) {
    return {device, "bench", [&](vk::Recorder& recorder) {
                for (std::uint32_t i = 0; i < n; ++i) {
                    record(recorder, i);
                    recorder.barrier();
                }
            }};
}

double Bench::best_of(std::uint32_t n_samples, std::uint32_t n,
                      const std::function<void(vk::Recorder&, std::uint32_t)>& record) {
    vk::TimedWork work = dispatches_in_a_row(*device_, n, record);
    work.warm_up();
    double best = 1e30;
    for (std::uint32_t sample = 0; sample < n_samples; ++sample) best = std::min(best, work.run() / n);
    return best;
}

vk::Buffer Bench::buffer(std::uint64_t bytes) const {
    vk::Buffer b(*device_, "bench", (bytes + 15) / 16 * 16, vk::BufferUse::kDevice);
    vk::run_once(*device_, [&](vk::Recorder& recorder) { recorder.fill(b, kSmallValues); });
    return b;
}

vk::Buffer Bench::zeros(std::uint64_t bytes) const {
    vk::Buffer b(*device_, "bench_zeros", (bytes + 15) / 16 * 16, vk::BufferUse::kDevice);
    vk::run_once(*device_, [&](vk::Recorder& recorder) { recorder.fill(b, 0); });
    return b;
}

vk::Buffer Bench::words(const std::vector<std::uint32_t>& words) const {
    vk::Buffer b(*device_, "bench_words", words.size() * 4, vk::BufferUse::kDevice);
    vk::Uploader uploader(*device_);
    uploader.upload(b, std::as_bytes(std::span(words)));
    uploader.finish();
    return b;
}

vk::Buffer Bench::state(std::uint32_t position) const {
    std::vector<std::uint32_t> words(sizeof(StepState) / 4, 0);
    auto& s = *reinterpret_cast<StepState*>(words.data());
    s.position = position;
    s.n_limit = s.n_capacity = 0xffffffffu;
    s.temperature = 0.8f;
    s.top_k = 40;
    s.top_p = 0.95f;
    s.min_p = 0.05f;
    s.repeat_penalty = 1;
    return this->words(words);
}

bool Bench::is_right(benchmark::State& state, const std::function<void(vk::Recorder&, std::uint32_t)>& record,
                     const std::function<std::string()>& check) {
    vk::run_once(*device_, [&](vk::Recorder& recorder) { record(recorder, 0); });
    const std::string wrong = check();
    if (wrong.empty()) return true;
    all_right_ = false;
    state.SkipWithError(wrong.c_str());
    return false;
}

void Bench::run(benchmark::State& state, std::uint64_t bytes,
                const std::function<void(vk::Recorder&, std::uint32_t)>& record,
                const std::function<std::string()>& check) {
    if (check && !is_right(state, record, check)) return;
    std::uint32_t n = 1;
    if (!device_->is_cpu()) {
        vk::TimedWork one = dispatches_in_a_row(*device_, 1, record);
        one.run();
        const double microseconds = std::max(one.run(), 1.0);
        n = static_cast<std::uint32_t>(std::clamp(kRunMicroseconds / microseconds, 1.0, double{kMostDispatches}));
    }
    vk::TimedWork work = dispatches_in_a_row(*device_, n, record);
    work.warm_up();
    for ([[maybe_unused]] auto _ : state) state.SetIterationTime(work.run() / n * 1e-6);
    const double total = static_cast<double>(bytes) * static_cast<double>(state.iterations());
    state.counters["bytes"] = static_cast<double>(bytes);
    state.counters["bytes_per_second"] = benchmark::Counter(total, benchmark::Counter::kIsRate);
    state.counters["share_of_copy"] = benchmark::Counter(total / copy_bytes_per_second_, benchmark::Counter::kIsRate);
}

MatrixRef matrix_ref(WeightType type, std::uint32_t n_rows) { return {0, n_rows, static_cast<std::uint32_t>(type)}; }

KvConfig kv_config(const Shape& shape, std::uint32_t capacity, std::uint32_t n_layers) {
    KvConfig c;
    c.n_layers = n_layers;
    c.n_kv_heads = shape.n_kv_heads;
    c.head_dim = shape.head_dim;
    c.capacity = capacity;
    c.roles.assign(std::size_t{n_layers} * shape.n_kv_heads, {});
    return c;
}

std::string label(const std::string& stage, const Shape& shape, WeightType type) {
    return fmt::format("{}/{}/{}", stage, shape.name, type_name(type));
}

}  // namespace winnow::bench
