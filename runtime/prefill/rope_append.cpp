// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/rope_append.h"

#include <algorithm>
#include <array>

#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"

namespace winnow {

RopeAppend::RopeAppend(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    tokens_per_group_ = device.limits().fitting_group(subgroup * (device.is_cpu() ? 1 : 4)) / subgroup;
    const std::array<std::uint32_t, 10> spec{tokens_per_group_ * subgroup,
                                             c.head_dim,
                                             c.n_heads,
                                             c.n_kv_heads,
                                             c.n_rot,
                                             c.pairing == RopePairing::kNeox ? 1u : 0u,
                                             c.qk_norm ? 1u : 0u,
                                             c.bias ? 1u : 0u,
                                             c.block_size,
                                             tokens_per_group_};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader(kv_shader("rope_append", c.kv_type)), 7,
                                    sizeof(RopeAppendPush), spec, subgroup);
}

void RopeAppend::record(vk::Recorder& recorder, const Buffers& b, const RopeAppendPush& push) const {
    recorder.dispatch(pipeline_, {b.projections, b.rope, b.tables, b.params, b.query, b.keys, b.values}, push,
                      config_.n_heads + 2 * config_.n_kv_heads,
                      (push.n_tokens + tokens_per_group_ - 1) / tokens_per_group_);
}

std::uint64_t RopeAppend::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    return n_tokens * (c.head_dim * (c.n_heads * 6ull + 8ull * c.n_kv_heads) +
                       2 * c.n_kv_heads * kv_row_bytes(c.kv_type, c.head_dim));
}

}  // namespace winnow
