// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "shaders/common/interface.h"
#include "winnow/sparse.h"

namespace winnow {

/// Holds the captured mass of every (layer, kv head) at a target: audited heads that stay below it widen, those well above it
/// narrow, and flat heads, which would need most of the cache anyway, fall back to everything. Plain logic, no device.
class AuditController {
public:
    /// @param level the last level of the policy; its mass is the target (top-k has its mass as target too).
    AuditController(std::uint32_t n_layers, std::uint32_t n_kv_heads, const SelectLevel& level);

    /// Notes one audit of a head and changes what it may keep.
    /// @param mass least captured mass of the head's query heads. @param share tokens attended of those cached.
    /// @param n_tokens in the cache.
    void observe(std::uint32_t layer, std::uint32_t kv_head, float mass, float share, std::uint32_t n_tokens,
                 HeadPolicy& policy);

    bool is_dense(std::uint32_t layer, std::uint32_t kv_head) const { return heads_[layer * n_kv_heads_ + kv_head].dense; }
    float target() const { return target_; }

private:
    struct Head {
        float mean = -1;  // exponential mean of the mass; negative = nothing seen
        bool dense = false;
    };
    std::uint32_t n_kv_heads_;
    BudgetRule rule_;
    float target_;
    std::vector<Head> heads_;
};

}  // namespace winnow
