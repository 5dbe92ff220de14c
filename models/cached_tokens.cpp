// SPDX-License-Identifier: Apache-2.0
#include "models/cached_tokens.h"

#include <algorithm>
#include <utility>

namespace winnow {

std::uint32_t CachedTokens::n_servable(std::uint32_t n, std::uint32_t n_written) const {
    const KvConfig& config = layout_.config();
    for (std::uint32_t i = 0; i < config.n_layers * config.n_kv_heads && n > 0; ++i) {
        const HeadLayout& head = layout_.head(i / config.n_kv_heads, i % config.n_kv_heads);
        const std::uint32_t newest = (n_written - 1) / config.block_size;
        if (head.ring_blocks == 0 || newest < head.sink_blocks + head.ring_blocks) continue;
        const std::uint32_t oldest = (newest + 1 - head.ring_blocks) * config.block_size;
        if (n + 1 < oldest + config.roles[i].window) return 0;
    }
    return n;
}

void CachedTokens::push(std::int32_t id, std::uint32_t selected_by) {
    const bool all_dense = history_.n_dense == n();
    ids_.push_back(id);
    note_written(n());
    if (selected_by == 0) {
        // What follows a token of a step that selected depends on that selection too, however it is computed itself.
        if (all_dense) history_.n_dense = n();
    } else if (all_dense) {
        history_.policy = selected_by;
    } else if (history_.policy != selected_by) {
        history_.policy = 0;
    }
}

void CachedTokens::note_written(std::uint32_t n) { history_.n_written = std::max(history_.n_written, n); }

std::uint32_t CachedTokens::keep(std::uint32_t n) {
    n = n_servable(n);
    ids_.resize(n);
    history_.n_dense = std::min(history_.n_dense, n);
    if (n == 0) history_ = {};
    return n;
}

void CachedTokens::assign(std::vector<std::int32_t> ids, const CacheHistory& history) {
    ids_ = std::move(ids);
    history_ = history;
    history_.n_dense = std::min(history_.n_dense, n());
}

void CachedTokens::forget_policy() { history_.n_dense = history_.policy = 0; }

}  // namespace winnow
