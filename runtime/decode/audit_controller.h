// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "shaders/common/interface.h"
#include "winnow/sparse.h"

namespace winnow {

/// How many tokens a coarse level lets through for one that the last level may keep. Codes are near the keys' own
/// scores, a mean of 64 keys is not.
double coarse_ratio(const SelectLevel& coarse);

/// Holds the captured mass of every (layer, kv head) at a target. Heads that use one selection (their own, or that of a
/// layer that lends it) steer it together: it widens when any of them stays below the target, narrows when the worst is
/// well above it, and falls back to everything when one of them would need most of the cache anyway. Plain logic, no
/// device.
class AuditController {
public:
    /// A selection that heads attend to: of a kv head of a layer that selects.
    struct Source {
        std::uint32_t layer = 0, kv_head = 0;
    };

    /// @param policy its last level's mass is the target (top-k has its mass as target too).
    AuditController(const SparsePolicy& policy, std::uint32_t n_kv_heads);

    /// Whether the layer attends to a selection at all, so that an audit of it says something about one.
    bool steers(std::uint32_t layer) const;
    Source source(std::uint32_t layer, std::uint32_t kv_head) const;

    /// Notes one audit of a head and changes what its selection may keep.
    /// @param mass least captured mass of the head's query heads. @param share tokens attended of those cached.
    /// @param n_tokens in the cache. @param levels policies of the source, one per level, coarse to fine.
    void observe(std::uint32_t layer, std::uint32_t kv_head, float mass, float share, std::uint32_t n_tokens,
                 std::span<HeadPolicy* const> levels);

    /// Whether the head's selection keeps everything.
    bool is_dense(std::uint32_t layer, std::uint32_t kv_head) const {
        return selections_[selection(layer, kv_head)].dense;
    }
    float target() const { return target_; }

private:
    struct Selection {
        bool dense = false;
        std::vector<std::size_t> users;  // heads that attend to it
    };
    std::size_t head(std::uint32_t layer, std::uint32_t kv_head) const {
        return std::size_t{layer} * n_kv_heads_ + kv_head;
    }
    std::size_t selection(std::uint32_t layer, std::uint32_t kv_head) const {
        const Source s = source(layer, kv_head);
        return head(s.layer, s.kv_head);
    }
    void widen(std::span<HeadPolicy* const> levels, std::uint32_t n_tokens) const;
    void narrow(HeadPolicy& last, std::uint32_t n_tokens) const;

    std::uint32_t n_kv_heads_;
    std::vector<LayerSchedule> layers_;
    std::vector<SelectLevel> levels_;
    float target_;
    std::vector<float> means_;           // exponential mean of each head's mass; negative = nothing seen
    std::vector<Selection> selections_;  // by head of the layer that selects
};

}  // namespace winnow
