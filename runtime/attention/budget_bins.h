// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "winnow/sparse.h"

namespace winnow {

// The histograms by which stages apply the budget rule in one round. How many bins each of them has it decides itself.

/// Rows of bins of a kv head: one for tokens and, where mass counts (by the rule, or because a level that follows asks
/// what was dropped), one for each query head's mass.
inline std::uint32_t rows_of_bins(BudgetRule rule, std::uint32_t n_group, bool is_final = true) {
    return rule == BudgetRule::kTopP || !is_final ? 1 + n_group : 1;
}

/// Width of one of n bins, in nats.
inline double bin_nats(std::uint32_t n_bins) {
    constexpr double kNats = 32;  // what all of them span (kBins in the shaders)
    return kNats / n_bins;
}

}  // namespace winnow
