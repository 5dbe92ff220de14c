// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/audit_controller.h"

#include <algorithm>

namespace winnow {
namespace {

constexpr float kMemory = 0.7f;  // weight of the past in the exponential mean
constexpr float kSlack = 0.4f;   // narrow when the miss is below this share of the allowed one
constexpr float kWiden = 0.6f;   // factor on the estimated miss; top-k budgets grow by its inverse
constexpr float kNarrow = 1.1f;
constexpr float kFlatShare = 0.75f;  // a head that needs more than this reads everything instead
constexpr float kLeastMiss = 1e-4f;  // of the estimate; beyond it a head takes everything
constexpr float kMostMiss = 0.5f;
constexpr std::uint32_t kLeastBudget = 32;
constexpr std::uint32_t kNoLimit = 0x7fffffff;

void change_mass(HeadPolicy& policy, float factor) {
    const float miss = std::clamp((1 - policy.mass) * factor, 0.0f, kMostMiss);
    policy.mass = miss < kLeastMiss ? 1.0f : 1 - miss;
}

// A budget is the larger of a count and a share of the cache: the one that rules is changed.
void change_budget(HeadPolicy& policy, float factor, std::uint32_t n_tokens) {
    const auto n = static_cast<float>(std::max(n_tokens, kLeastBudget));
    if (policy.budget_share * n > static_cast<float>(policy.budget_max)) {
        policy.budget_share = std::clamp(policy.budget_share * factor, static_cast<float>(kLeastBudget) / n, 1.0f);
        return;
    }
    const float wanted = static_cast<float>(std::max(policy.budget_max, kLeastBudget)) * factor;
    policy.budget_max = static_cast<std::uint32_t>(std::clamp(wanted, static_cast<float>(kLeastBudget), n));
}

void open(HeadPolicy& policy) {
    policy.mass = 1;
    policy.budget_max = policy.budget_min = kNoLimit;
    policy.threshold = 0;
}

}  // namespace

AuditController::AuditController(const SparsePolicy& policy, std::uint32_t n_kv_heads)
    : n_kv_heads_(n_kv_heads),
      layers_(policy.layers),
      levels_(policy.levels),
      target_(policy.levels.empty() ? 1 : policy.levels.back().mass),
      means_(layers_.size() * n_kv_heads, -1.0f),
      selections_(means_.size()) {
    for (std::uint32_t layer = 0; layer < layers_.size(); ++layer)
        for (std::uint32_t h = 0; steers(layer) && h < n_kv_heads; ++h)
            selections_[selection(layer, h)].users.push_back(head(layer, h));
}

bool AuditController::steers(std::uint32_t layer) const {
    return !levels_.empty() && (layers_[layer].kind == LayerKind::kSelect || layers_[layer].kind == LayerKind::kReuse);
}

AuditController::Source AuditController::source(std::uint32_t layer, std::uint32_t kv_head) const {
    const LayerSchedule& s = layers_[layer];
    if (s.kind != LayerKind::kReuse) return {layer, kv_head};
    return {s.source, s.head_map.empty() ? kv_head : s.head_map[kv_head]};
}

void AuditController::observe(std::uint32_t layer, std::uint32_t kv_head, float mass, float share,
                              std::uint32_t n_tokens, std::span<HeadPolicy* const> levels) {
    Selection& s = selections_[selection(layer, kv_head)];
    if (s.dense || target_ >= 1 || levels.empty()) return;
    float& mean = means_[head(layer, kv_head)];
    mean = mean < 0 ? mass : kMemory * mean + (1 - kMemory) * mass;
    // A single bad step widens at once; narrowing waits for the mean.
    if (std::min(mass, mean) < target_) {
        if (share > kFlatShare) {
            s.dense = true;
            for (HeadPolicy* level : levels) open(*level);
        } else {
            widen(levels, n_tokens);
        }
        return;
    }
    // Of the heads that share it the worst decides, so that many users do not narrow it many times.
    const std::size_t own = head(layer, kv_head);
    const bool is_worst = std::all_of(s.users.begin(), s.users.end(), [&](std::size_t user) {
        return means_[user] < 0 || means_[user] > mean || (means_[user] == mean && user >= own);
    });
    if (is_worst && mean > 1 - (1 - target_) * kSlack) narrow(*levels.back(), n_tokens);
}

double coarse_ratio(const SelectLevel& coarse) { return coarse.scorer == Scorer::kCodes ? 2.25 : 2; }

void AuditController::widen(std::span<HeadPolicy* const> levels, std::uint32_t n_tokens) const {
    // What a coarse level drops no finer one can reach: when the last one keeps all it is offered, the others widen.
    HeadPolicy& last = *levels.back();
    bool offered_all = false;
    if (levels_.back().rule == BudgetRule::kTopP) {
        offered_all = last.mass >= 1;
        change_mass(last, kWiden);
    } else if (levels_.back().rule == BudgetRule::kTopK) {
        change_budget(last, 1 / kWiden, n_tokens);
    } else {
        offered_all = last.threshold < kLeastMiss / static_cast<float>(std::max(n_tokens, 1u));
    }
    last.threshold *= kWiden;
    for (std::size_t i = 0; i + 1 < levels.size(); ++i) {
        HeadPolicy& coarse = *levels[i];
        const bool is_budget = levels_[i].rule == BudgetRule::kTopK;
        const float room =
            std::max(static_cast<float>(coarse.budget_max), coarse.budget_share * static_cast<float>(n_tokens));
        const float wanted =
            std::max(static_cast<float>(last.budget_max), last.budget_share * static_cast<float>(n_tokens));
        const bool too_small = levels_.back().rule == BudgetRule::kTopK && is_budget &&
                               room < static_cast<float>(coarse_ratio(levels_[i])) * wanted;
        if (!offered_all && !too_small) continue;
        if (is_budget) change_budget(coarse, 1 / kWiden, n_tokens);
        else change_mass(coarse, kWiden);
        coarse.threshold *= kWiden;
    }
}

void AuditController::narrow(HeadPolicy& last, std::uint32_t n_tokens) const {
    if (levels_.back().rule == BudgetRule::kTopP) change_mass(last, kNarrow);
    else if (levels_.back().rule == BudgetRule::kTopK) change_budget(last, 1 / kNarrow, n_tokens);
    else last.threshold *= kNarrow;
}

}  // namespace winnow
