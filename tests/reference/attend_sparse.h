// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tests/reference/attend_dense.h"

namespace winnow::reference {

/// Which tokens a kv head attends to: its sinks, a list made for it, and everything from the list's middle_end on.
struct SparseView {
    std::uint32_t sink_tokens = 0;
    std::uint32_t window = 0;  ///< without a list: at least so many last tokens
    bool window_only = false;
    std::span<const std::uint32_t> list;
    std::uint32_t middle_end = 0;
};
/// Ascending unless the list is not. A windowed head sees what it always sees.
std::vector<std::uint32_t> attended_tokens(const HeadView& head, const SparseView& sparse, std::uint32_t position);

/// Softmax attention over these tokens of each kv head. @param value_skip share of the maximum below which a token does
/// not count, when every query head of the kv head agrees; 0 = off.
Attended attend_sparse(std::span<const float> query, const CacheView& cache,
                       const std::vector<std::vector<std::uint32_t>>& tokens, double value_skip = 0);

}  // namespace winnow::reference
