// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kv/kv_layout.h"

namespace winnow {

/// How the tokens of a cache came into it.
struct CacheHistory {
    /// Most tokens since it was empty, those of surplus steps too: what rings hold follows from that.
    std::uint32_t n_written = 0;
    std::uint32_t n_dense = 0;  ///< first tokens that no selection touched, which serve every policy
    /// policy_hash() of the one that the others were decoded under; 0 = several, or other head roles than the file's.
    std::uint32_t policy = 0;
};

/// Which tokens a cache holds, and which of them it can still serve. Arithmetic alone: touches no device.
class CachedTokens {
public:
    /// @param layout of the cache; must outlive this.
    explicit CachedTokens(const KvLayout& layout) : layout_(layout) {}

    std::uint32_t n() const { return static_cast<std::uint32_t>(ids_.size()); }
    const std::vector<std::int32_t>& ids() const { return ids_; }
    const CacheHistory& history() const { return history_; }

    /// How many of the first n tokens can still be served: n, or 0 where the window of the next one would reach back to
    /// what rings have overwritten.
    std::uint32_t n_servable(std::uint32_t n) const { return n_servable(n, history_.n_written); }
    /// The same of a cache that once held `n_written` tokens.
    std::uint32_t n_servable(std::uint32_t n, std::uint32_t n_written) const;

    /// @param selected_by policy_hash() of the step that computed the token from a selection; 0 = nothing was selected.
    void push(std::int32_t id, std::uint32_t selected_by = 0);
    /// Notes that the cache has been written up to n tokens, whether or not all of them count.
    void note_written(std::uint32_t n);
    /// Forgets what follows the first n tokens, or everything where that much cannot be served. @returns tokens left.
    std::uint32_t keep(std::uint32_t n);
    void assign(std::vector<std::int32_t> ids, const CacheHistory& history);
    /// What is cached came about under head roles that a file would not tell of: none of it serves another policy.
    void forget_policy();

private:
    const KvLayout& layout_;
    std::vector<std::int32_t> ids_;
    CacheHistory history_;
};

}  // namespace winnow
