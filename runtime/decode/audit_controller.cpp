// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/audit_controller.h"

#include <algorithm>

namespace winnow {
namespace {

constexpr float kMemory = 0.7f;       // weight of the past in the exponential mean
constexpr float kSlack = 0.4f;        // narrow when the miss is below this share of the allowed one
constexpr float kWiden = 0.6f;        // factor on the estimated miss; top-k budgets grow by its inverse
constexpr float kNarrow = 1.1f;
constexpr float kFlatShare = 0.75f;   // a head that needs more than this reads everything instead
constexpr float kLeastMiss = 1e-4f;   // of the estimate; beyond it a head takes everything
constexpr float kMostMiss = 0.5f;
constexpr std::uint32_t kLeastBudget = 32;

}  // namespace

AuditController::AuditController(std::uint32_t n_layers, std::uint32_t n_kv_heads, const SelectLevel& level)
    : n_kv_heads_(n_kv_heads),
      rule_(level.rule),
      target_(level.mass),
      heads_(std::size_t{n_layers} * n_kv_heads) {}

void AuditController::observe(std::uint32_t layer, std::uint32_t kv_head, float mass, float share, std::uint32_t n_tokens,
                              HeadPolicy& policy) {
    Head& head = heads_[layer * n_kv_heads_ + kv_head];
    if (head.dense || target_ >= 1) return;
    head.mean = head.mean < 0 ? mass : kMemory * head.mean + (1 - kMemory) * mass;
    // A single bad step widens at once; narrowing waits for the mean.
    const bool low = std::min(mass, head.mean) < target_;
    const bool high = head.mean > 1 - (1 - target_) * kSlack;
    if (low && share > kFlatShare) {
        head.dense = true;
        policy.mass = 1;
        policy.budget_max = 0x7fffffff;
        policy.threshold = 0;
        policy.budget_min = 0x7fffffff;
        return;
    }
    if (!low && !high) return;
    if (rule_ == BudgetRule::kTopP) {
        const float miss = std::clamp((1 - policy.mass) * (low ? kWiden : kNarrow), 0.0f, kMostMiss);
        policy.mass = miss < kLeastMiss ? 1.0f : 1 - miss;
    } else if (rule_ == BudgetRule::kTopK) {
        const float wanted = static_cast<float>(std::max(policy.budget_max, kLeastBudget)) * (low ? 1 / kWiden : 1 / kNarrow);
        policy.budget_max = static_cast<std::uint32_t>(
            std::clamp(wanted, static_cast<float>(kLeastBudget), static_cast<float>(std::max(n_tokens, kLeastBudget))));
        policy.budget_share = 0;
    } else {
        policy.threshold *= low ? kWiden : kNarrow;
    }
}

}  // namespace winnow
