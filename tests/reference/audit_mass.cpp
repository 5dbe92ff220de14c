// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/audit_mass.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace winnow::reference {

std::vector<CapturedMass> audit_mass(std::span<const float> query, const CacheView& cache, std::uint32_t position,
                                     std::uint32_t sink_tokens, std::span<const double> lse) {
    const std::size_t dim = cache.head_dim;
    const std::size_t n_heads = query.size() / dim;
    const std::size_t n_group = n_heads / cache.heads.size();
    std::vector<CapturedMass> result(n_heads);
    for (std::size_t h = 0; h < n_heads; ++h) {
        const HeadView& head = cache.heads[h / n_group];
        std::vector<double> scores(position + 1, -std::numeric_limits<double>::infinity());
        double largest = -std::numeric_limits<double>::infinity();
        for (std::uint32_t token = 0; token <= position; ++token) {
            if (!head.sees(position, token)) continue;
            scores[token] = 0;
            for (std::size_t i = 0; i < dim; ++i)
                scores[token] += double{query[h * dim + i]} * double{cache.keys[head.row(token) * dim + i]};
            largest = std::max(largest, scores[token]);
        }
        double everything = 0, sinks = 0;
        for (std::uint32_t token = 0; token <= position; ++token) {
            everything += std::exp(scores[token] - largest);
            if (token < sink_tokens) sinks += std::exp(scores[token] - largest);
        }
        const double captured = std::exp(lse[h] - largest);
        result[h].mass = captured / everything;
        result[h].rest = (everything - sinks) / everything;
        result[h].without_sinks = result[h].rest > 1e-3 ? (captured - sinks) / (everything - sinks) : 1;
    }
    return result;
}

}  // namespace winnow::reference
