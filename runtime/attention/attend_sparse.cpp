// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_sparse.h"

#include <array>

#include "runtime/kv/kv_layout.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/weights/attend_tuning.h"

namespace winnow {

AttendSparse::AttendSparse(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::uint32_t group = c.n_heads / c.n_kv_heads;
    const AttendVariant variant = attend_variant(
        device, {kv_shader("attend_sparse", c.kv_type), c.kv_type, group, c.head_dim, c.n_splits, true, c.skip_values},
        c.tuning);
    const AttendTuning& tuning = variant.tuning;
    const std::array<std::uint32_t, 14> spec{tuning.group_size,
                                             c.head_dim,
                                             group,
                                             c.n_kv_heads,
                                             tuning.lanes,
                                             tuning.group_size / device.limits().subgroup_size,
                                             c.n_splits,
                                             tuning.tokens_in_flight,
                                             c.block_size,
                                             c.quantize && group * c.head_dim % 32 == 0 ? 1u : 0u,
                                             64,
                                             c.unit,
                                             c.skip_values ? 1u : 0u,
                                             c.evicted ? 1u : 0u};
    pipeline_ =
        vk::ComputePipeline(device, *variant.shader, 15, sizeof(AttendSparsePush), spec, device.limits().subgroup_size);
}

void AttendSparse::record(vk::Recorder& recorder, const Buffers& b, const AttendSparsePush& push) const {
    recorder.dispatch(pipeline_,
                      {b.state, b.tables, b.keys, b.values, b.query, b.partials, b.counters, b.attended, b.act_out,
                       b.lists, b.controls, b.head_maps, b.lse, b.counts, config_.evicted ? b.evicted : b.state},
                      push, config_.n_splits, config_.n_kv_heads);
}

std::uint64_t AttendSparse::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    return n_tokens * c.n_kv_heads * 2 * kv_row_bytes(c.kv_type, c.head_dim) + n_tokens / c.unit * c.n_kv_heads * 4 +
           8ull * c.n_heads * c.head_dim + (c.quantize ? activation_bytes(c.n_heads * c.head_dim) : 0);
}

}  // namespace winnow
