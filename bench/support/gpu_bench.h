// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/kv/kv_cache.h"
#include "runtime/vk/device.h"
#include "runtime/vk/recorder.h"
#include "runtime/vk/timed_work.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow::bench {

constexpr std::uint32_t kMostDispatches = 1000;     ///< of one timed run
constexpr std::uint32_t kSmallValues = 0x20102010;  ///< f16 values of 0.0078, harmless as f32 and as int8 planes too

/// A line of bench/shapes.
struct Shape {
    std::string name;
    std::uint32_t n_layers = 0, n_embd = 0, n_ff = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, n_vocab = 0;
    std::uint32_t q_dim() const { return n_heads * head_dim; }
    std::uint32_t kv_dim() const { return n_kv_heads * head_dim; }
};

/// The shapes that are timed: all of bench/shapes on a GPU, the smallest alone on a software driver.
const std::vector<Shape>& shapes();

/// The device of the whole run and what it can copy per second, measured once at the start.
class Bench {
public:
    static Bench& get();
    vk::Device& device() { return *device_; }
    /// Whether every result that was checked was right.
    bool all_right() const { return all_right_; }
    double copy_bytes_per_second() const { return copy_bytes_per_second_; }

    /// A buffer of kSmallValues.
    vk::Buffer buffer(std::uint64_t bytes) const;
    vk::Buffer zeros(std::uint64_t bytes) const;
    vk::Buffer words(const std::vector<std::uint32_t>& words) const;
    /// A decode state that stands at `position` and is not stopped.
    vk::Buffer state(std::uint32_t position) const;
    /// Bytes that dispatches in a row take turns in, so that no cache flatters them.
    std::uint64_t rotation_bytes() const { return device_->is_cpu() ? 0 : 600ull << 20; }

    /// Times `record` (a dispatch) with the barrier after it by timestamps, many in a row; a dispatch may use other
    /// buffers than the one before it. An iteration of the bench is one such row. Reports bytes per second and the
    /// share of the copy bandwidth.
    /// With `check`, dispatch 0 runs once before, and what the check then says is wrong, if anything, fails the bench.
    void run(benchmark::State& state, std::uint64_t bytes,
             const std::function<void(vk::Recorder&, std::uint32_t)>& record,
             const std::function<std::string()>& check = {});
    /// The check alone; false where it failed.
    bool is_right(benchmark::State& state, const std::function<void(vk::Recorder&, std::uint32_t)>& record,
                  const std::function<std::string()>& check);
    /// Microseconds of one of n dispatches in a row, each with its barrier: the best of n_samples runs.
    double best_of(std::uint32_t n_samples, std::uint32_t n,
                   const std::function<void(vk::Recorder&, std::uint32_t)>& record);

private:
    Bench();
    std::unique_ptr<vk::Device> device_;
    bool all_right_ = true;
    double copy_bytes_per_second_;
};

/// Registers a bench whose times are the device's. What does not fit the device is skipped with the reason.
benchmark::internal::Benchmark* add_bench(const std::string& name, const std::function<void(benchmark::State&)>& run);
/// Dispatches 0 to n - 1, each with the barrier after it.
vk::TimedWork dispatches_in_a_row(vk::Device& device, std::uint32_t n,
                                  const std::function<void(vk::Recorder&, std::uint32_t)>& record);
MatrixRef matrix_ref(WeightType type, std::uint32_t n_rows);
KvConfig kv_config(const Shape& shape, std::uint32_t capacity, std::uint32_t n_layers);
std::string label(const std::string& stage, const Shape& shape, WeightType type);

}  // namespace winnow::bench
