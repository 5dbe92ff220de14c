// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/attend_prefill.h"

#include <algorithm>
#include <array>

#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"

namespace winnow {

AttendPrefill::AttendPrefill(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    subgroups_per_group_ = device.is_cpu() ? 1 : 2;
    // Registers bound what a subgroup can hold: fewer (query, head) pairs for wide heads.
    items_ = c.head_dim * 8 / subgroup >= 128 && !device.is_cpu() ? 4 : 8;
    const std::uint32_t keys_per_lane = std::clamp(c.block_size / subgroup, 1u, device.is_cpu() ? 4u : 2u);
    const std::array<std::uint32_t, 8> spec{subgroups_per_group_ * subgroup, subgroup,     c.head_dim, c.n_heads / c.n_kv_heads,
                                            c.n_kv_heads,                    items_,       keys_per_lane, c.block_size};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader(kv_shader("attend_prefill", c.kv_type)), 5, sizeof(AttendPrefillPush), spec, device.limits().subgroup_size);
}

void AttendPrefill::record(vk::Recorder& recorder, const Buffers& b, const AttendPrefillPush& push) const {
    recorder.dispatch(pipeline_, {b.tables, b.keys, b.values, b.query, b.attended}, push,
                      (push.n_tokens * (config_.n_heads / config_.n_kv_heads) + items_ * subgroups_per_group_ - 1) /
                          (items_ * subgroups_per_group_),
                      config_.n_kv_heads);
}

std::uint64_t AttendPrefill::bytes_moved(const Config& c, std::uint64_t n_tokens, std::uint64_t n_cached) {
    return (n_cached + n_tokens) * c.n_kv_heads * 2 * kv_row_bytes(c.kv_type, c.head_dim) +
           n_tokens * c.n_heads * c.head_dim * 4ull;
}

}  // namespace winnow
