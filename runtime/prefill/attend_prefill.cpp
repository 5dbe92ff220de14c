// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/attend_prefill.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"

namespace winnow {
namespace {

constexpr std::string_view kCooperative = "attend_prefill_coopmat", kTexel = "attend_prefill_texel";

std::uint32_t divide_up(std::uint32_t a, std::uint32_t b) { return (a + b - 1) / b; }

/// How the cooperative variant divides the work of a group.
struct CooperativeShape {
    std::uint32_t row_tiles = 0, parts = 0, keys = 0;
};

/// Zeros where the shader has no shape for these heads on this device.
CooperativeShape cooperative_shape(const vk::DeviceLimits& limits, const AttendPrefill::Config& c,
                                   std::uint32_t n_subgroups) {
    const vk::MatrixShape& m = limits.matrix;
    // The sums of more than 128 dimensions fill a subgroup's registers, so two share the rows.
    const std::uint32_t parts = c.head_dim > 128 ? 2 : 1;
    const std::uint32_t row_tiles = n_subgroups / parts;
    if (c.kv_type == KvType::kF32 || m.m == 0 || c.head_dim > 256 || c.head_dim % (m.n * parts) != 0 ||
        c.head_dim % m.k != 0 || limits.subgroup_size < m.m ||
        limits.subgroup_size * n_subgroups > limits.max_workgroup_invocations) {
        return {};
    }
    const std::uint32_t lanes = limits.subgroup_size * parts / m.m;  // of a row's softmax
    for (std::uint32_t keys = std::min(32u, c.block_size); keys >= m.k; keys /= 2) {
        if (c.block_size % keys != 0 || keys % (m.n * parts) != 0 || keys % (lanes * 8) != 0) continue;
        const std::uint32_t shared_bytes = 16 * (2 * keys * (c.head_dim / 8 | 1) + row_tiles * m.m * (keys / 4 + 1)) +
                                           4 * (row_tiles * m.m + m.m * m.n);
        if (shared_bytes <= limits.max_shared_memory_bytes) return {row_tiles, parts, keys};
    }
    return {};
}

}  // namespace

AttendPrefill::AttendPrefill(vk::Device& device, const Config& config, std::uint32_t n_busy)
    : config_(config), n_busy_(n_busy) {
    const vk::ShaderVariant& shader = vk::best_shader(variants(device, config), device.features());
    if (shader.name == kv_shader(kCooperative, config.kv_type)) make_cooperative(device, shader);
    else if (shader.name == kv_shader(kTexel, config.kv_type)) make_texel(device, shader);
    else make_plain(device, shader);
}

std::vector<std::string> AttendPrefill::variants(const vk::Device& device, const Config& config) {
    std::vector<std::string> names{kv_shader(kTexel, config.kv_type), kv_shader("attend_prefill", config.kv_type)};
    if (cooperative_shape(device.limits(), config, 8).keys != 0)
        names.insert(device.prefers_matrices() ? names.begin() : names.end(), kv_shader(kCooperative, config.kv_type));
    return names;
}

void AttendPrefill::make_plain(vk::Device& device, const vk::ShaderVariant& shader) {
    const Config& c = config_;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    const std::uint32_t subgroups = device.is_cpu() ? 1 : 2;
    // Registers bound what a subgroup can hold: fewer (query, head) pairs for wide heads.
    const std::uint32_t items = c.head_dim * 8 / subgroup >= 128 && !device.is_cpu() ? 4 : 8;
    const std::uint32_t keys_per_lane = std::clamp(c.block_size / subgroup, 1u, device.is_cpu() ? 4u : 2u);
    const std::array<std::uint32_t, 8> spec{subgroups * subgroup, subgroup, c.head_dim,    c.n_heads / c.n_kv_heads,
                                            c.n_kv_heads,         items,    keys_per_lane, c.block_size};
    tiles_.push_back(
        {items * subgroups, vk::ComputePipeline(device, shader, 5, sizeof(AttendPrefillPush), spec, subgroup)});
}

void AttendPrefill::make_texel(vk::Device& device, const vk::ShaderVariant& shader) {
    const Config& c = config_;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    n_busy_ = std::min(n_busy_, 16u);
    // Queries and sums of the pairs in the first-level cache: pairs x head_dim x 2 x 4 bytes a lane. Few pairs for few
    // tokens.
    const std::uint32_t most = std::clamp(256 / c.head_dim, 1u, 4u);
    for (std::uint32_t items : {most, 1u}) {
        const std::array<std::uint32_t, 8> spec{subgroup,
                                                subgroup,
                                                c.head_dim,
                                                c.n_heads / c.n_kv_heads,
                                                c.n_kv_heads,
                                                items,
                                                c.head_dim > 128 ? 2u : 4u,
                                                c.block_size};
        tiles_.push_back(
            {items * subgroup, vk::ComputePipeline(device, shader, 5, sizeof(AttendPrefillPush), spec, subgroup)});
        if (most == 1) return;
    }
}

void AttendPrefill::make_cooperative(vk::Device& device, const vk::ShaderVariant& shader) {
    const Config& c = config_;
    const vk::MatrixShape& m = device.limits().matrix;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    for (const std::uint32_t n_subgroups : {8u, 4u}) {
        const CooperativeShape shape = cooperative_shape(device.limits(), c, n_subgroups);
        const std::array<std::uint32_t, 12> spec{n_subgroups * subgroup,
                                                 subgroup,
                                                 m.m,
                                                 m.n,
                                                 m.k,
                                                 c.head_dim,
                                                 c.n_heads / c.n_kv_heads,
                                                 c.n_kv_heads,
                                                 shape.row_tiles,
                                                 shape.parts,
                                                 shape.keys,
                                                 c.block_size};
        tiles_.push_back(
            {shape.row_tiles * m.m, vk::ComputePipeline(device, shader, 5, sizeof(AttendPrefillPush), spec, subgroup)});
    }
}

void AttendPrefill::record(vk::Recorder& recorder, const Buffers& b, const AttendPrefillPush& push) const {
    const std::uint32_t n_items = push.n_tokens * (config_.n_heads / config_.n_kv_heads);
    std::size_t i = 0;
    while (i + 1 < tiles_.size() && divide_up(n_items, tiles_[i].n_items) * config_.n_kv_heads < n_busy_) ++i;
    recorder.dispatch(tiles_[i].pipeline, {b.tables, b.keys, b.values, b.query, b.attended}, push,
                      divide_up(n_items, tiles_[i].n_items), config_.n_kv_heads);
}

std::uint64_t AttendPrefill::bytes_moved(const Config& c, std::uint64_t n_tokens, std::uint64_t n_cached) {
    return (n_cached + n_tokens) * c.n_kv_heads * 2 * kv_row_bytes(c.kv_type, c.head_dim) +
           n_tokens * c.n_heads * c.head_dim * 4ull;
}

}  // namespace winnow
