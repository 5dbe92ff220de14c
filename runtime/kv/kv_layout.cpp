// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/kv_layout.h"

#include <algorithm>
#include <utility>

#include "shaders/common/interface.h"
#include "winnow/error.h"

namespace winnow {

std::uint64_t kv_row_bytes(KvType type, std::uint32_t head_dim) {
    const std::uint64_t scales = (head_dim + 31) / 32 * 2;
    switch (type) {
        case KvType::kF32: return head_dim * 4ull;
        case KvType::kF16: return head_dim * 2ull;
        case KvType::kQ8_0: return head_dim + scales;
        case KvType::kQ4_0: return head_dim / 2 + scales;
    }
    return 0;
}

std::uint64_t index_row_bytes(IndexType type, std::uint32_t index_dim) {
    return type == IndexType::kInt8 ? index_dim + 2ull : index_dim * 2ull;
}

std::uint32_t summary_element_bytes(KvType type) { return type == KvType::kF32 ? 4 : 2; }

std::string kv_shader(std::string_view stage, KvType type) {
    const char* suffix = "_f32";
    if (type == KvType::kF16) suffix = "_f16";
    if (type == KvType::kQ8_0) suffix = "_q8_0";
    if (type == KvType::kQ4_0) suffix = "_q4_0";
    return std::string(stage) + suffix;
}

KvLayout::KvLayout(KvConfig config) : config_(std::move(config)) {
    const auto blocks_of = [&](std::uint64_t tokens) {
        return static_cast<std::uint32_t>((tokens + config_.block_size - 1) / config_.block_size);
    };
    if (config_.capacity == 0) throw Error(ErrorCode::kInvalidArgument, "the context must hold at least one token");
    const std::uint32_t full_blocks = blocks_of(config_.capacity);
    std::uint32_t longest = 0;
    layer_blocks_.assign(config_.n_layers, 0);
    full_blocks_.assign(config_.n_layers, 0);
    for (std::uint32_t layer = 0; layer < config_.n_layers; ++layer) {
        for (std::uint32_t kv_head = 0; kv_head < config_.n_kv_heads; ++kv_head) {
            const HeadRole& role = config_.roles.at(layer * config_.n_kv_heads + kv_head);
            HeadLayout head;
            head.n_blocks = full_blocks;
            if (role.local) {
                if (role.window == 0) throw Error(ErrorCode::kInvalidArgument, "a local head needs a window");
                // A window of W tokens seen from each of C appended ones spans at most this many blocks.
                const std::uint64_t span = std::uint64_t{role.window} + config_.max_chunk - 1;
                const std::uint64_t ring = (span + config_.block_size - 2) / config_.block_size + 1;
                const std::uint32_t sinks = blocks_of(role.sink_tokens);
                if (sinks + ring < full_blocks) {
                    head.sink_blocks = sinks;
                    head.ring_blocks = static_cast<std::uint32_t>(ring);
                    head.n_blocks = sinks + head.ring_blocks;
                }
            }
            longest = std::max(longest, head.n_blocks);
            heads_.push_back(head);
        }
        // Full heads first: what goes with the keys of those alone (index keys) then needs no rows for the rings.
        for (const bool full : {true, false}) {
            for (std::uint32_t kv_head = 0; kv_head < config_.n_kv_heads; ++kv_head) {
                HeadLayout& head = heads_[layer * config_.n_kv_heads + kv_head];
                if ((head.ring_blocks == 0) != full) continue;
                head.first_block = layer_blocks_[layer];
                layer_blocks_[layer] += head.n_blocks;
            }
            if (full) full_blocks_[layer] = layer_blocks_[layer];
        }
    }
    table_stride_ = WINNOW_TABLE_HEADER + longest;
}

std::uint64_t KvLayout::block_bytes() const {
    return config_.block_size * kv_row_bytes(config_.type, config_.head_dim);
}

std::uint64_t KvLayout::pool_bytes(std::uint32_t layer) const { return layer_blocks_[layer] * block_bytes(); }

std::uint64_t KvLayout::largest_pool_bytes() const {
    std::uint64_t largest = 0;
    for (std::uint32_t layer = 0; layer < config_.n_layers; ++layer) largest = std::max(largest, pool_bytes(layer));
    return largest;
}

std::uint64_t KvLayout::total_bytes() const {
    std::uint64_t sum = 0;
    for (std::uint32_t layer = 0; layer < config_.n_layers; ++layer) sum += 2 * pool_bytes(layer);
    return sum;
}

std::vector<std::uint32_t> KvLayout::tables() const {
    std::vector<std::uint32_t> words(std::size_t{config_.n_layers} * config_.n_kv_heads * table_stride_ + 1, 0);
    for (std::size_t i = 0; i < heads_.size(); ++i) {
        std::uint32_t* row = words.data() + i * table_stride_;
        row[WINNOW_TABLE_SINK_BLOCKS] = heads_[i].sink_blocks;
        row[WINNOW_TABLE_RING_BLOCKS] = heads_[i].ring_blocks;
        row[WINNOW_TABLE_WINDOW] = config_.roles[i].window;
        row[WINNOW_TABLE_SINK_TOKENS] = config_.roles[i].sink_tokens;
        for (std::uint32_t b = 0; b < heads_[i].n_blocks; ++b) row[WINNOW_TABLE_HEADER + b] = heads_[i].first_block + b;
    }
    return words;
}

std::vector<HeadRole> model_roles(const ModelShape& shape) {
    std::vector<HeadRole> roles;
    for (const LayerShape& layer : shape.layers) {
        HeadRole role;
        role.local = layer.window != 0;
        role.window = layer.window;
        roles.insert(roles.end(), shape.n_kv_heads, role);
    }
    return roles;
}

}  // namespace winnow
