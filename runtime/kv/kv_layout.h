// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "winnow/types.h"

namespace winnow {

/// What a kv head keeps. A `full` head keeps every block; a `local` head keeps the blocks of its first
/// sink_tokens and a ring of recent blocks, and reuses the rest. A full head may still see a window only.
struct HeadRole {
    bool local = false;
    std::uint32_t window = 0;       ///< tokens seen, the newest included; 0 = all (full heads only)
    std::uint32_t sink_tokens = 0;  ///< first tokens seen besides the window
    bool summed = false;            ///< what leaves the window is added up (EvictedSums)
};

/// Input of the layout: everything that decides the size of the cache.
struct KvConfig {
    std::uint32_t n_layers = 0;
    std::uint32_t n_kv_heads = 0;
    std::uint32_t head_dim = 0;
    std::uint32_t capacity = 0;     ///< tokens
    std::uint32_t block_size = 64;  ///< tokens of a block
    std::uint32_t max_chunk = 1;    ///< most tokens appended before a query reads them
    KvType type = KvType::kF16;
    std::vector<HeadRole> roles;  ///< [n_layers * n_kv_heads]
};

/// Blocks of one kv head of one layer. Logical block b stands at entry b of its table row, or, for a local head,
/// at sink_blocks + (b - sink_blocks) % ring_blocks once b >= sink_blocks.
struct HeadLayout {
    std::uint32_t first_block = 0;  ///< physical; a head's blocks are consecutive
    std::uint32_t n_blocks = 0;
    std::uint32_t sink_blocks = 0;
    std::uint32_t ring_blocks = 0;  ///< 0 = full
};

/// The arithmetic of the cache: which blocks exist, where, and how many bytes they take. Needs no GPU.
/// K and V pool of a layer: [n_blocks, block_size, head_dim].
class KvLayout {
public:
    KvLayout() = default;
    /// @throws Error(kInvalidArgument) for a zero capacity or a head without a window to be local in.
    explicit KvLayout(KvConfig config);

    const KvConfig& config() const { return config_; }
    const HeadLayout& head(std::uint32_t layer, std::uint32_t kv_head) const {
        return heads_[layer * config_.n_kv_heads + kv_head];
    }
    std::uint32_t layer_blocks(std::uint32_t layer) const { return layer_blocks_[layer]; }
    /// Blocks of the layer's heads that are no rings; they stand before the others.
    std::uint32_t full_blocks(std::uint32_t layer) const { return full_blocks_[layer]; }
    std::uint64_t block_bytes() const;                            ///< of K or of V
    std::uint64_t pool_bytes(std::uint32_t layer) const;          ///< of the K pool; V has the same
    std::uint64_t largest_pool_bytes() const;                     ///< what one binding must reach
    std::uint64_t total_bytes() const;                            ///< K and V pools of all layers
    std::uint32_t table_stride() const { return table_stride_; }  ///< words per kv head
    std::uint32_t table_offset(std::uint32_t layer) const { return layer * config_.n_kv_heads * table_stride_; }
    /// The block tables of all layers as the shaders read them (interface.h).
    std::vector<std::uint32_t> tables() const;

private:
    KvConfig config_;
    std::vector<HeadLayout> heads_;
    std::vector<std::uint32_t> layer_blocks_, full_blocks_;
    std::uint32_t table_stride_ = 0;
};

/// Roles that a model's own sliding windows ask for.
std::vector<HeadRole> model_roles(const ModelShape& shape);

/// Bytes of a token's key or value in one head, scales included.
std::uint64_t kv_row_bytes(KvType type, std::uint32_t head_dim);
/// Bytes of a token's index key in one head, scale included.
std::uint64_t index_row_bytes(IndexType type, std::uint32_t index_dim);
/// Bytes of a minimum or maximum in the summaries beside such a cache.
std::uint32_t summary_element_bytes(KvType type);
/// Name of the variant of `stage` for this type: stage_f16 and so on.
std::string kv_shader(std::string_view stage, KvType type);

}  // namespace winnow
