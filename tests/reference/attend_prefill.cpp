// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/attend_prefill.h"

namespace winnow::reference {

Attended attend_prefill(std::span<const float> queries, std::size_t n_heads, const CacheView& cache,
                        std::uint32_t position) {
    const std::size_t per_token = n_heads * cache.head_dim;
    Attended chunk;
    for (std::uint32_t token = 0; token < queries.size() / per_token; ++token) {
        const Attended one = attend_dense(queries.subspan(token * per_token, per_token), cache, position + token);
        chunk.output.insert(chunk.output.end(), one.output.begin(), one.output.end());
        chunk.terms.insert(chunk.terms.end(), one.terms.begin(), one.terms.end());
        chunk.lse.insert(chunk.lse.end(), one.lse.begin(), one.lse.end());
    }
    return chunk;
}

}  // namespace winnow::reference
