// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_dense.h"

#include <algorithm>
#include <array>

#include "runtime/kv/kv_layout.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/vk/quirks.h"
#include "runtime/weights/attend_tuning.h"

namespace winnow {
namespace {

constexpr std::uint32_t kWave = 128;  // workgroups that run at once, about the cores of an H100

AttendStage stage_of(const AttendDense::Config& c) {
    return {kv_shader("attend_dense", c.kv_type), c.kv_type, c.n_heads / c.n_kv_heads, c.head_dim, c.n_splits};
}

}  // namespace

AttendDense::AttendDense(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::uint32_t group = c.n_heads / c.n_kv_heads;
    if (c.quantize && group * c.head_dim % 32 != 0)
        throw Error(ErrorCode::kUnsupported, "query heads of a kv head must hold a multiple of 32 values together");
    const std::uint32_t subgroup = device.limits().subgroup_size;
    const AttendVariant variant = attend_variant(device, stage_of(c), c.tuning);
    const AttendTuning& tuning = variant.tuning;
    // By matrix units the sums of 128 dimensions and more leave a core registers for one workgroup, and one wave of
    // them is best (127 us, two waves 133; 131,072 tokens, 8B, H200). A shape that is asked for comes as it is.
    if (tuning.matrices && c.tuning.group_size == 0 && c.head_dim >= 128)
        config_.n_splits = std::min(c.n_splits, (kWave + c.n_kv_heads - 1) / c.n_kv_heads);
    const std::array<std::uint32_t, 12> spec{tuning.group_size,
                                             c.head_dim,
                                             group,
                                             c.n_kv_heads,
                                             tuning.lanes,
                                             tuning.group_size / subgroup,
                                             config_.n_splits,
                                             tuning.tokens_in_flight,
                                             c.block_size,
                                             c.quantize ? 1u : 0u,
                                             device.is_cpu() ? 1u : 2u,  // a merge costs a GPU more than another block
                                             c.evicted ? 1u : 0u};
    pipeline_ = vk::ComputePipeline(device, *variant.shader, 10, sizeof(AttendPush), spec, subgroup);
}

void AttendDense::record(vk::Recorder& recorder, const Buffers& b, const AttendPush& push) const {
    recorder.dispatch(pipeline_,
                      {b.state, b.tables, b.keys, b.values, b.query, b.partials, b.counters, b.attended, b.act_out,
                       config_.evicted ? b.evicted : b.state},
                      push, config_.n_splits, config_.n_kv_heads);
}

std::vector<std::string> AttendDense::variants(vk::Device& device, const Config& config) {
    return attend_variants(device, stage_of(config), config.tuning);
}

std::uint32_t AttendDense::default_splits(const vk::Device& device, std::uint32_t n_kv_heads, std::uint32_t capacity,
                                          std::uint32_t block_size) {
    return default_splits(device.is_cpu(), n_kv_heads, capacity, block_size);
}

std::uint32_t AttendDense::default_splits(bool is_cpu, std::uint32_t n_kv_heads, std::uint32_t capacity,
                                          std::uint32_t block_size) {
    const std::uint32_t n_blocks = (capacity + block_size - 1) / block_size;
    // Workgroups in all: two waves; on a software driver few, since those without work cost as much as the others.
    const std::uint32_t wanted = is_cpu ? 4 : 2 * kWave;
    std::uint32_t splits = (wanted + n_kv_heads - 1) / n_kv_heads;
    if (is_cpu) splits = std::max(splits, capacity / vk::kSoftwareTokensPerSplit);
    return std::clamp(splits, 1u, std::min(n_blocks, 128u));
}

std::uint64_t AttendDense::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    return n_tokens * c.n_kv_heads * 2 * kv_row_bytes(c.kv_type, c.head_dim) + 8ull * c.n_heads * c.head_dim +
           (c.quantize ? activation_bytes(c.n_heads * c.head_dim) : 0);
}

}  // namespace winnow
