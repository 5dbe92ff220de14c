// SPDX-License-Identifier: Apache-2.0
#include "bench/support/check_choice.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/reference/select_rows.h"

namespace winnow::bench {
namespace {

constexpr double kRounding = 1e-4;  // of a score in f32, and of a head's mass

reference::Level level_of(const ScoredRows& in) {
    reference::Level level{{}, in.sure, in.lse};
    const std::uint32_t first = in.sinks / in.unit;
    for (std::uint32_t unit = first; unit * in.unit < in.middle_end; ++unit) {
        const std::uint32_t from = std::max(unit * in.unit, in.sinks),
                            to = std::min((unit + 1) * in.unit, in.middle_end);
        reference::Row row{unit, to - from, {}, 0};
        for (std::size_t g = 0; g < in.lse.size(); ++g)
            row.log_weight.push_back(std::min(double{in.scores[g * in.stride + unit - first]} - in.lse[g], 0.0));
        // Ranks end there: weaker rows are all alike.
        row.pooled = std::max(*std::max_element(row.log_weight.begin(), row.log_weight.end()), -65535.0 / 2048);
        level.rows.push_back(row);
    }
    return level;
}

// Weight of the weakest row that the rule keeps.
double cut_of(const reference::Level& scored, SelectLevel level, std::uint32_t budget, double mass_change) {
    level.mass += static_cast<float>(mass_change);
    const std::vector<std::size_t> kept = keep_rows(scored, level, budget);
    return kept.empty() ? 0 : scored.rows[kept.back()].pooled;
}

}  // namespace

std::string check_choice(const ScoredRows& rows, const SelectLevel& level, std::uint32_t budget,
                         std::span<const std::uint32_t> kept, double bin) {
    const reference::Level scored = level_of(rows);
    const double lowest = cut_of(scored, level, budget, kRounding) - bin - kRounding;
    const double highest = cut_of(scored, level, budget, -kRounding) + bin + kRounding;
    std::uint64_t n_kept = 0, n_all = 0;
    auto next = kept.begin();
    for (const reference::Row& row : scored.rows) {
        n_all += row.n_tokens;
        const bool is_kept = next != kept.end() && *next == row.unit;
        if (is_kept ? row.pooled < lowest : row.pooled > highest)
            return fmt::format("wrong choice: unit {} of weight {:.3f} is {} where the cut is at {:.3f} to {:.3f}",
                               row.unit, row.pooled, is_kept ? "kept" : "dropped", lowest, highest);
        if (!is_kept) continue;
        n_kept += row.n_tokens;
        ++next;
    }
    if (next != kept.end()) return fmt::format("wrong choice: {} is no unit to choose, or not in order", *next);
    if (n_kept >= std::uint64_t{budget} + level.unit)
        return fmt::format("wrong choice: {} tokens of a budget of {}", n_kept, budget);
    if (level.rule == BudgetRule::kTopK && n_kept < std::min<std::uint64_t>(budget, n_all))
        return fmt::format("wrong choice: only {} tokens of a budget of {}", n_kept, budget);
    return {};
}

}  // namespace winnow::bench
