// SPDX-License-Identifier: Apache-2.0
#include "bench/support/weights.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/gguf.h"
#include "models/random_model.h"
#include "runtime/vk/upload.h"
#include "runtime/weights/weight_planes.h"
#include "winnow/error.h"

namespace winnow::bench {
namespace {

// Copies of small matrices share buffers: a device has only so many allocations.
constexpr std::uint64_t kBufferBytes = 256ull << 20;

const std::vector<WeightType> kTypes{WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ5_0, WeightType::kQ5_1,
                                     WeightType::kQ8_0, WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K,
                                     WeightType::kF16,  WeightType::kBF16, WeightType::kF32};

bool fits(WeightType type, std::uint32_t n_in) { return n_in % block_format(type).weights == 0; }

}  // namespace

Weights::Weights(WeightType type, const std::vector<std::uint32_t>& n_rows, std::uint32_t n_in,
                 std::uint64_t at_least_bytes)
    : type_(type), n_in_(n_in) {
    vk::Device& device = Bench::get().device();
    std::uint64_t stored_bytes = 0, bytes = 0;
    for (const std::uint32_t n : n_rows) {
        refs_.push_back({static_cast<std::uint32_t>(bytes / 16), n, static_cast<std::uint32_t>(type)});
        first_byte_.push_back(stored_bytes);
        stored_bytes += stored_row_bytes(type, n_in) * n;
        bytes += (weight_planes(type, n, n_in).total + 15) / 16 * 16;
    }
    const vk::DeviceLimits& limits = device.limits();
    if (bytes > limits.max_storage_buffer_range)
        throw Error(ErrorCode::kOutOfMemory,
                    fmt::format("{:.0f} MB of weights where a binding of '{}' reaches {:.0f} MB",
                                static_cast<double>(bytes) * 1e-6, device.info().name,
                                static_cast<double>(limits.max_storage_buffer_range) * 1e-6));
    stored_ = std::make_unique_for_overwrite<std::byte[]>(stored_bytes);
    fill_random_weights(type, 1, {stored_.get(), stored_bytes});
    const auto planes = std::make_unique_for_overwrite<std::byte[]>(bytes);
    for (std::size_t i = 0; i < n_rows.size(); ++i)
        repack_matrix(
            type, {stored_.get() + first_byte_[i], stored_row_bytes(type, n_in) * n_rows[i]}, n_in, n_rows[i],
            {planes.get() + std::uint64_t{refs_[i].base_quads} * 16, weight_planes(type, n_rows[i], n_in).total});

    const std::uint64_t alignment = std::max<std::uint64_t>(limits.storage_buffer_alignment, 256);
    const std::uint64_t stride = (bytes + alignment - 1) / alignment * alignment;
    const std::uint64_t wanted = std::clamp<std::uint64_t>((at_least_bytes + stride - 1) / stride, 1, kMostDispatches);
    const std::uint64_t per_buffer = std::clamp<std::uint64_t>(kBufferBytes / stride, 1, wanted);
    buffers_.reserve(wanted / per_buffer + 1);  // ranges point into it
    while (copies_.size() < wanted) {
        if (!copies_.empty() && device.free_memory_bytes() < 2 * per_buffer * stride) break;
        buffers_.emplace_back(device, "bench_weights", per_buffer * stride, vk::BufferUse::kDevice);
        for (std::uint64_t i = 0; i < per_buffer; ++i) copies_.emplace_back(buffers_.back(), i * stride, bytes);
    }
    vk::Uploader uploader(device);
    uploader.upload(copies_[0], {planes.get(), bytes});
    uploader.finish();
    vk::run_once(device, [&](vk::Recorder& recorder) {
        for (std::size_t i = 1; i < copies_.size(); ++i) recorder.copy(copies_[0], copies_[i]);
    });
}

reference::Matrix Weights::rows(std::size_t which, std::span<const std::uint32_t> rows) const {
    const std::uint64_t row = stored_row_bytes(type_, n_in_);
    std::vector<std::byte> some;
    for (const std::uint32_t r : rows) {
        const std::byte* at = stored_.get() + first_byte_[which] + r * row;
        some.insert(some.end(), at, at + row);
    }
    return reference::dequantize(type_, some, rows.size(), n_in_);
}

std::vector<WeightType> fitting_types(std::uint32_t n_in) {
    std::vector<WeightType> types = kTypes;
    std::erase_if(types, [&](WeightType type) { return !fits(type, n_in); });
    return types;
}

void register_matvecs(const std::string& stage, const std::function<std::uint32_t(const Shape&)>& n_in,
                      const std::function<void(benchmark::State&, const Shape&, WeightType)>& run) {
    // Types without, shapes within: rows and columns of the table in order.
    for (const WeightType type : kTypes)
        for (const Shape& s : shapes())
            if (fits(type, n_in(s)))
                add_bench(label(stage, s, type), [s, type, run](benchmark::State& state) { run(state, s, type); });
}

}  // namespace winnow::bench
