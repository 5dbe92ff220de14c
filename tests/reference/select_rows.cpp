// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/select_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace winnow::reference {

std::vector<std::size_t> keep_rows(const Level& scored, const SelectLevel& level, std::uint32_t budget_max) {
    std::vector<std::size_t> order(scored.rows.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return scored.rows[a].pooled > scored.rows[b].pooled; });
    std::vector<std::size_t> kept;
    std::vector<double> mass = scored.sure;
    std::uint32_t count = 0;
    for (const std::size_t i : order) {
        bool reached = level.rule == BudgetRule::kTopP && level.mass < 1;
        for (const double m : mass) reached = reached && m >= static_cast<double>(level.mass);
        if ((reached && count >= level.budget_min) || (budget_max != 0 && count >= budget_max)) break;
        if (level.threshold > 0 && scored.rows[i].pooled < std::log(static_cast<double>(level.threshold))) break;
        kept.push_back(i);
        count += scored.rows[i].n_tokens;
        for (std::size_t g = 0; g < mass.size(); ++g)
            mass[g] += scored.rows[i].n_tokens * std::exp(scored.rows[i].log_weight[g]);
    }
    return kept;
}

}  // namespace winnow::reference
