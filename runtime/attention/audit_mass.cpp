// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/audit_mass.h"

#include <array>

#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"

namespace winnow {

AuditMass::AuditMass(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    const std::uint32_t group_size = device.is_cpu() ? 32 : 128;
    const std::array<std::uint32_t, 6> spec{group_size, c.head_dim,  c.n_heads / c.n_kv_heads, group_size / subgroup,
                                            c.n_splits, c.block_size};
    const vk::ShaderVariant& shader = vk::find_shader(kv_shader("audit_mass", c.kv_type));
    pipeline_ = vk::ComputePipeline(device, shader, 8, sizeof(AuditPush), spec, subgroup);
}

void AuditMass::record(vk::Recorder& recorder, const Buffers& b, const AuditPush& push) const {
    recorder.dispatch(pipeline_, {b.state, b.tables, b.keys, b.query, b.lse, b.partials, b.counters, b.records}, push,
                      config_.n_splits, config_.n_kv_heads);
}

std::uint64_t AuditMass::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    return n_tokens * c.n_kv_heads * kv_row_bytes(c.kv_type, c.head_dim) + c.n_heads * c.head_dim * 4ull;
}

}  // namespace winnow
