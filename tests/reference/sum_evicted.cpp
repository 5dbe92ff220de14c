// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/sum_evicted.h"

#include <cmath>

namespace winnow::reference {

EvictedSum sum_evicted(const CacheView& cache, std::uint32_t kv_head, std::uint32_t position) {
    const HeadView& head = cache.heads[kv_head];
    EvictedSum sum{std::vector<std::int64_t>(cache.head_dim), std::vector<std::int64_t>(cache.head_dim), 0};
    for (std::uint32_t token = 0; token < position; ++token) {
        if (head.sees(position, token)) continue;
        const std::size_t at = head.row(token) * cache.head_dim;
        for (std::size_t i = 0; i < cache.head_dim; ++i) {
            sum.key[i] += std::llrint(std::ldexp(double{cache.keys[at + i]}, 24));
            sum.value[i] += std::llrint(std::ldexp(double{cache.values[at + i]}, 24));
        }
        ++sum.n_tokens;
    }
    return sum;
}

Compensated compensate(const CacheView& cache, std::uint32_t position) {
    Compensated result{{cache.keys.begin(), cache.keys.end()},
                       {cache.values.begin(), cache.values.end()},
                       {cache.heads.begin(), cache.heads.end()}};
    for (std::uint32_t h = 0; h < result.heads.size(); ++h) {
        HeadView& head = result.heads[h];
        const EvictedSum sum = sum_evicted(cache, h, position);
        for (std::uint32_t token = 0; token < position; ++token) {
            if (head.sees(position, token)) continue;
            for (std::size_t i = 0; i < cache.head_dim; ++i) {
                result.keys[head.row(token) * cache.head_dim + i] =
                    static_cast<float>(std::ldexp(static_cast<double>(sum.key[i]), -24) / sum.n_tokens);
                result.values[head.row(token) * cache.head_dim + i] =
                    static_cast<float>(std::ldexp(static_cast<double>(sum.value[i]), -24) / sum.n_tokens);
            }
        }
        head.window = head.sink_tokens = 0;
    }
    return result;
}

}  // namespace winnow::reference
