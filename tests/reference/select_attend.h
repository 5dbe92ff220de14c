// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>

#include "tests/reference/attend_sparse.h"
#include "tests/reference/indexer_score.h"

namespace winnow::reference {

/// Attention of one token over what a chosen list of units stands for in each kv head, with sinks, window and the open
/// block.
/// @param units by kv head, ascending; `unit` tokens each
Attended select_attend(const SelectView& view, const std::vector<std::vector<std::uint32_t>>& units, std::uint32_t unit,
                       double value_skip = 0);

}  // namespace winnow::reference
