// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/qkv.h"

#include <algorithm>
#include <array>

#include "runtime/kv/kv_layout.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/weights/matvec_tuning.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {

Qkv::Qkv(vk::Device& device, const Config& c) {
    if (c.bias && c.qk_norm)
        throw Error(ErrorCode::kUnsupported, "a model with both Q/K/V biases and QK norm is not supported");
    const MatvecTuning tuning = matvec_tuning(device, MatvecKind::kQkv, c.n_embd, c.type_q, c.tuning);
    // A group stays inside one head, and holds all of it when the head is normed.
    std::uint32_t rows = c.qk_norm ? c.head_dim : std::min(tuning.rows_per_group, c.head_dim);
    while (c.head_dim % rows != 0) rows -= 2;
    // A quantised row of the cache is written by the group that has all of it.
    const bool quantized = c.kv_type == KvType::kQ8_0 || c.kv_type == KvType::kQ4_0;
    const std::uint32_t n_kv_heads = c.n_range_kv_heads != 0 ? c.n_range_kv_heads : c.n_kv_heads;
    const std::uint32_t n_heads = n_kv_heads * (c.n_heads / c.n_kv_heads);
    n_groups_ = n_heads * c.head_dim / rows + 2 * n_kv_heads * c.head_dim / (quantized ? c.head_dim : rows);
    const std::array<std::uint32_t, 20> spec{tuning.group_size,
                                             c.head_dim,
                                             c.n_heads,
                                             c.n_kv_heads,
                                             c.n_rot,
                                             c.pairing == RopePairing::kNeox ? 1u : 0u,
                                             c.qk_norm ? 1u : 0u,
                                             c.bias ? 1u : 0u,
                                             rows,
                                             tuning.rows_per_pass,
                                             c.n_embd / 32,
                                             static_cast<std::uint32_t>(c.type_q),
                                             static_cast<std::uint32_t>(c.type_k),
                                             static_cast<std::uint32_t>(c.type_v),
                                             c.block_size,
                                             c.summary_unit,
                                             tuning.blocks_in_flight,
                                             c.first_kv_head,
                                             n_kv_heads,
                                             tuning.share_act ? 1u : 0u};
    const vk::ShaderVariant& shader = vk::find_shader(kv_shader("qkv", c.kv_type), device.features());
    pipeline_ = vk::ComputePipeline(device, shader, 12, sizeof(QkvPush), spec, device.limits().subgroup_size);
}

void Qkv::record(vk::Recorder& recorder, const Buffers& b, const QkvPush& push) const {
    // Without summaries their bindings still need a buffer; the shader does not touch it.
    const auto or_any = [&](const vk::BufferRange& range) { return range.buffer != nullptr ? range : b.query; };
    recorder.dispatch(pipeline_,
                      {b.weights, b.act_in, b.state, b.rope, b.tables, b.params, b.query, b.keys, b.values,
                       or_any(b.summary_min), or_any(b.summary_max), or_any(b.summary_sum)},
                      push, n_groups_);
}

std::uint64_t Qkv::bytes_moved(const Config& c) {
    const std::uint64_t q = std::uint64_t{c.n_heads} * c.head_dim;
    const std::uint64_t kv = std::uint64_t{c.n_kv_heads} * c.head_dim;
    return q * repacked_row_bytes(c.type_q, c.n_embd) + kv * repacked_row_bytes(c.type_k, c.n_embd) +
           kv * repacked_row_bytes(c.type_v, c.n_embd) + activation_bytes(c.n_embd) + q * 4 +
           2 * c.n_kv_heads * kv_row_bytes(c.kv_type, c.head_dim);
}

}  // namespace winnow
