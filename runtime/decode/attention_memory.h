// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/decode/attention_sizes.h"
#include "runtime/vk/buffer.h"
#include "shaders/common/interface.h"
#include "winnow/sparse.h"

namespace winnow {

/// What selection keeps on the device under a policy, and where each layer, level and kv head has its part of it. Only
/// policies that select have any; records no dispatch.
class AttentionMemory {
public:
    /// Of one layer; empty where the policy has no use for them. Summaries: rows of blocks by physical block, then of
    /// superblocks.
    struct Layer {
        vk::Buffer min, max;     ///< f16 (f32 beside an f32 cache) [rows, head_dim]
        vk::Buffer sum;          ///< f32 [rows, head_dim]
        vk::Buffer index_keys;   ///< f16, or i8 with their scales [tokens of full heads, index_dim]
        vk::Buffer index_sums;   ///< f32 [blocks of full heads, index_dim]
        vk::Buffer index_codes;  ///< u16 [blocks of full heads, index_code_words, 64 tokens]
    };

    AttentionMemory() = default;
    /// @param maps index projections f32 [n_layers][n_kv_heads][A, B][index_dim, head_dim]. @throws
    /// Error(kInvalidArgument) where their number is another.
    AttentionMemory(vk::Device& device, const AttentionShape& shape, const SparsePolicy& policy,
                    const AttentionSizes& sizes, std::span<const float> maps);

    /// Forgets all lists and counts.
    void reset(vk::Device& device) const;

    /// Place of the layer's first kv head in `controls` and `policies`.
    std::uint32_t control(std::uint32_t layer, std::size_t level) const {
        return static_cast<std::uint32_t>((layer * list_strides_.size() + level) * n_kv_heads_);
    }
    /// Words of `lists` before the list of the layer's first kv head, and from one kv head's to the next.
    std::uint32_t list_offset(std::uint32_t layer, std::size_t level) const;
    std::uint32_t list_stride(std::size_t level) const { return list_strides_.empty() ? 0 : list_strides_[level]; }
    HeadPolicy& head_policy(std::uint32_t layer, std::uint32_t kv_head, std::size_t level) const {
        return policies.mapped_as<HeadPolicy>()[control(layer, level) + kv_head];
    }
    vk::BufferRange or_none(const vk::Buffer& buffer) const { return buffer ? buffer : none; }
    std::uint64_t bytes() const;

    std::vector<Layer> layers;
    vk::Buffer none;            ///< stands where a shader binds what it does not read
    vk::Buffer maps;            ///< f32 [n_layers, n_kv_heads, A and B, index_dim, head_dim]
    vk::Buffer code_tables;     ///< u32 [n_layers, n_kv_heads, index_dim, WINNOW_CODE_WORDS]; 16 bytes without
    vk::Buffer lists;           ///< u32 units, ascending: [n_layers or 1][level][n_kv_heads, list_stride(level)]
    vk::Buffer scores;          ///< f32 [n_heads, IndexerScore::score_stride()]
    vk::Buffer partials;        ///< vec2 [n_kv_heads, n_select_splits + 1, n_group], or of shares twice as many
    vk::Buffer counters;        ///< u32 [selection (or arrivals of shares) and audit, n_kv_heads]
    vk::Buffer controls;        ///< SelectControl [n_layers, n_levels, n_kv_heads]
    vk::Buffer policies;        ///< HeadPolicy [n_layers, n_levels, n_kv_heads], host-visible
    vk::Buffer last_queries;    ///< f32 [n_layers, n_heads, head_dim]
    vk::Buffer dropped;         ///< f32 [n_heads] log of the mass of what coarser levels dropped
    vk::Buffer head_maps;       ///< u32 [n_layers, n_kv_heads]
    vk::Buffer lse;             ///< f32 [n_heads]
    vk::Buffer counts;          ///< u32 [WINNOW_TOKEN_RING, n_layers, n_kv_heads] tokens attended, host-visible
    vk::Buffer audit_partials;  ///< vec4 [n_kv_heads, kAuditSplits, n_group]
    vk::Buffer records;         ///< f32 [n_layers, n_heads, with and without sinks], host-visible
    /// Of SelectRows, whose sizes they have; empty where the last workgroup chooses.
    vk::Buffer ranks, bins, through, cuts;

private:
    void write_policies(const AttentionShape& shape, const SparsePolicy& policy) const;

    std::uint32_t n_kv_heads_ = 0;
    bool lists_serve_once_ = true;
    std::vector<std::uint32_t> list_strides_;  // by level
};

}  // namespace winnow
