// SPDX-License-Identifier: Apache-2.0
#include "bench/support/gpu_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>

#include "models/gguf.h"
#include "models/random_model.h"
#include "runtime/vk/pipeline.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/timer.h"
#include "runtime/vk/upload.h"
#include "runtime/weights/weight_planes.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kSmallValues = 0x20102010;
constexpr std::uint32_t kDispatchesPerRun = 200;
constexpr double kWarmMicroseconds = 60e3;

std::vector<Shape> read_shapes() {
    std::vector<Shape> list;
    for (const auto& entry : std::filesystem::directory_iterator(WINNOW_BENCH_SHAPES)) {
        std::ifstream in(entry.path());
        std::string line;
        while (std::getline(in, line)) {
            if (line.empty() || line[0] == '#') continue;
            Shape s;
            s.name = entry.path().stem().string();
            std::istringstream(line) >> s.n_layers >> s.n_embd >> s.n_ff >> s.n_heads >> s.n_kv_heads >> s.head_dim >> s.n_vocab;
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

Bench::Bench() : device_(vk::Device::open({})) {
    const std::uint64_t bytes = device_->is_cpu() ? 64ull << 20 : 1ull << 30;
    const vk::Buffer from = buffer(bytes);
    const vk::Buffer to = buffer(bytes);
    // A shader of our own: a driver's copy command is not always the fastest (a third of the bandwidth on an H100).
    const std::array<std::uint32_t, 1> spec{device_->is_cpu() ? 64u : 256u};
    const vk::ComputePipeline copy(*device_, vk::find_shader("copy_words"), 2, 4, spec);
    const auto n_quads = static_cast<std::uint32_t>(bytes / 16);
    const std::uint32_t n_groups = device_->is_cpu() ? 64 : 4096;
    const double microseconds = best_of(5, 1, [&](vk::Recorder& recorder, std::uint32_t) {
        recorder.dispatch(copy, {from, to}, n_quads, n_groups);
    });
    copy_bytes_per_second_ = 2.0 * static_cast<double>(bytes) / (microseconds * 1e-6);  // read and written
    benchmark::AddCustomContext("device", device_->info().name + ", " + device_->info().driver);
    benchmark::AddCustomContext("copy_GB_per_s", fmt::format("{:.1f}", copy_bytes_per_second_ / 1e9));
}

// An idle GPU lowers its clocks: what is timed runs without pause for as long as they take to rise.
template <typename Sample>
void Bench::run_warm(std::uint32_t n, const std::function<void(vk::Recorder&, std::uint32_t)>& record, Sample sample) {
    vk::Recorder recorder(*device_, "bench");
    vk::GpuTimer timer(*device_, 2);
    vk::Timeline timeline(*device_);
    recorder.begin();
    recorder.full_barrier();
    recorder.timestamp(&timer, "begin");
    for (std::uint32_t i = 0; i < n; ++i) {
        record(recorder, i);
        recorder.barrier();
    }
    recorder.timestamp(&timer, "end");
    recorder.end();
    double warm = 0;
    do {
        timeline.wait(timeline.submit(recorder));
        warm += timer.total_microseconds();
    } while (!device_->is_cpu() && warm < kWarmMicroseconds);
    do {
        timeline.wait(timeline.submit(recorder));
    } while (sample(timer.total_microseconds() / n));
}

double Bench::best_of(std::uint32_t n_samples, std::uint32_t n,
                      const std::function<void(vk::Recorder&, std::uint32_t)>& record) {
    double best = 1e30;
    run_warm(n, record, [&](double microseconds) {
        best = std::min(best, microseconds);
        return --n_samples != 0;
    });
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

std::vector<vk::Buffer> Bench::matrices(WeightType type, std::uint32_t n_rows, std::uint32_t n_in,
                                        std::uint64_t at_least_bytes) const {
    std::vector<std::byte> rows(row_bytes(type, n_in) * n_rows);
    fill_random_weights(type, 1, rows);
    std::vector<std::byte> planes(weight_planes(type, n_rows, n_in).total);
    repack_matrix(type, rows, n_in, n_rows, planes);
    std::vector<vk::Buffer> list;
    vk::Uploader uploader(*device_);
    do {
        list.emplace_back(*device_, "bench_matrix", planes.size(), vk::BufferUse::kDevice);
        uploader.upload(list.back(), planes);
    } while (list.size() * planes.size() < at_least_bytes);
    uploader.finish();
    return list;
}

void Bench::run(benchmark::State& state, std::uint64_t bytes,
                const std::function<void(vk::Recorder&, std::uint32_t)>& record) {
    const std::uint32_t n = device_->is_cpu() ? 1 : kDispatchesPerRun;
    bool first = true;
    run_warm(n, record, [&](double microseconds) {
        if (first) first = false;
        else state.SetIterationTime(microseconds * 1e-6);
        return state.KeepRunning();
    });
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

const std::vector<WeightType>& matvec_types() {
    static const std::vector<WeightType> types{WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ8_0, WeightType::kF16};
    return types;
}

std::string label(const std::string& stage, const Shape& shape, WeightType type) {
    return fmt::format("{}/{}/{}", stage, shape.name, type_name(type));
}

}  // namespace winnow::bench
