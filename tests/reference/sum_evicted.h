// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "tests/reference/attend_dense.h"

namespace winnow::reference {

/// Sums over what a query at `position` does not see of a kv head, in units of 2^-24; nothing of a head without a
/// window.
struct EvictedSum {
    std::vector<std::int64_t> key, value;  ///< [head_dim]
    std::uint32_t n_tokens = 0;
};
EvictedSum sum_evicted(const CacheView& cache, std::uint32_t kv_head, std::uint32_t position);

/// What attention with the compensation token amounts to: everything is seen, and what the query does not see of
/// `cache` has the mean of all such keys and values.
struct Compensated {
    std::vector<float> keys, values;
    std::vector<HeadView> heads;
};
Compensated compensate(const CacheView& cache, std::uint32_t position);

}  // namespace winnow::reference
