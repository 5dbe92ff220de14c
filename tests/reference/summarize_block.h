// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tests/reference/attend_dense.h"

namespace winnow::reference {

/// Per channel over the tokens [begin, end) of a kv head: what a row of summaries holds.
struct Summary {
    std::vector<double> min, max, sum;  ///< [head_dim]
    std::vector<double> terms;          ///< [head_dim] sum of |key|
};
Summary summarize_block(const CacheView& cache, std::uint32_t kv_head, std::uint32_t begin, std::uint32_t end);

/// Index key of a token, B k, before it is rounded. @param map [index_dim, head_dim]
struct IndexKey {
    std::vector<double> value, terms;  ///< [index_dim]
};
IndexKey index_key(const CacheView& cache, std::uint32_t kv_head, std::uint32_t token, std::span<const float> map);

}  // namespace winnow::reference
