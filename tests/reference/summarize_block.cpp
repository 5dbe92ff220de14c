// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/summarize_block.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace winnow::reference {

Summary summarize_block(const CacheView& cache, std::uint32_t kv_head, std::uint32_t begin, std::uint32_t end) {
    const std::size_t dim = cache.head_dim;
    Summary s{std::vector<double>(dim, std::numeric_limits<double>::infinity()),
              std::vector<double>(dim, -std::numeric_limits<double>::infinity()), std::vector<double>(dim),
              std::vector<double>(dim)};
    for (std::uint32_t token = begin; token < end; ++token) {
        const std::size_t at = cache.heads[kv_head].row(token) * dim;
        for (std::size_t i = 0; i < dim; ++i) {
            const double key = double{cache.keys[at + i]};
            s.min[i] = std::min(s.min[i], key);
            s.max[i] = std::max(s.max[i], key);
            s.sum[i] += key;
            s.terms[i] += std::abs(key);
        }
    }
    return s;
}

IndexKey index_key(const CacheView& cache, std::uint32_t kv_head, std::uint32_t token, std::span<const float> map) {
    const std::size_t dim = cache.head_dim;
    const std::size_t index_dim = map.size() / dim;
    const std::size_t at = cache.heads[kv_head].row(token) * dim;
    IndexKey result{std::vector<double>(index_dim), std::vector<double>(index_dim)};
    for (std::size_t r = 0; r < index_dim; ++r) {
        for (std::size_t i = 0; i < dim; ++i) {
            const double term = double{map[r * dim + i]} * double{cache.keys[at + i]};
            result.value[r] += term;
            result.terms[r] += std::abs(term);
        }
    }
    return result;
}

}  // namespace winnow::reference
