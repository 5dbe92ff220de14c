// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "tests/reference/indexer_score.h"

namespace winnow::reference {

/// Ranks of the smallest set that satisfies the rule: places in `rows`, best first, ties by lower unit.
/// @param budget_max tokens; 0 = no limit
std::vector<std::size_t> keep_rows(const Level& scored, const SelectLevel& level, std::uint32_t budget_max);

}  // namespace winnow::reference
