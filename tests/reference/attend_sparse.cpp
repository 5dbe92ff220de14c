// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/attend_sparse.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace winnow::reference {

std::vector<std::uint32_t> attended_tokens(const HeadView& head, const SparseView& sparse, std::uint32_t position) {
    std::vector<std::uint32_t> tokens;
    if (head.window != 0) {
        for (std::uint32_t t = 0; t <= position; ++t)
            if (head.sees(position, t)) tokens.push_back(t);
        return tokens;
    }
    std::uint32_t recent = sparse.middle_end;  // the first of those that are attended whatever they score
    if (sparse.window_only) {
        const std::uint32_t beyond = position + 1 > sparse.window ? position + 1 - sparse.window : 0;
        recent = std::min(beyond, position) / head.block_size * head.block_size;
    }
    recent = std::min(recent, position + 1);
    for (std::uint32_t t = 0; t < std::min(sparse.sink_tokens, recent); ++t) tokens.push_back(t);
    if (!sparse.window_only) tokens.insert(tokens.end(), sparse.list.begin(), sparse.list.end());
    for (std::uint32_t t = recent; t <= position; ++t) tokens.push_back(t);
    return tokens;
}

Attended attend_sparse(std::span<const float> query, const CacheView& cache,
                       const std::vector<std::vector<std::uint32_t>>& tokens, double value_skip) {
    const std::size_t dim = cache.head_dim;
    const std::size_t n_heads = query.size() / dim;
    const std::size_t n_group = n_heads / cache.heads.size();
    Attended result{std::vector<double>(query.size()), std::vector<double>(query.size()), std::vector<double>(n_heads)};
    for (std::size_t kv_head = 0; kv_head < cache.heads.size(); ++kv_head) {
        const std::size_t n = tokens[kv_head].size();
        std::vector<double> score(n_group * n), magnitude(n_group * n), heaviest(n);
        std::vector<double> largest(n_group, -std::numeric_limits<double>::infinity());
        for (std::size_t g = 0; g < n_group; ++g) {
            const float* q = query.data() + (kv_head * n_group + g) * dim;
            for (std::size_t t = 0; t < n; ++t) {
                const std::size_t at = cache.heads[kv_head].row(tokens[kv_head][t]) * dim;
                for (std::size_t i = 0; i < dim; ++i) {
                    const double term = double{q[i]} * double{cache.keys[at + i]};
                    score[g * n + t] += term;
                    magnitude[g * n + t] += std::abs(term);
                }
                largest[g] = std::max(largest[g], score[g * n + t]);
            }
            for (std::size_t t = 0; t < n; ++t)
                heaviest[t] = std::max(heaviest[t], std::exp(score[g * n + t] - largest[g]));
        }
        for (std::size_t g = 0; g < n_group; ++g) {
            const std::size_t head = kv_head * n_group + g;
            // A weight inherits its score's errors (attend_dense.h), the denominator their weighted mean.
            const auto condition = [&](std::size_t t) {
                return 1 + magnitude[g * n + t] + largest[g] - score[g * n + t];
            };
            double sum = 0, mean_condition = 0;
            for (std::size_t t = 0; t < n; ++t) {
                if (heaviest[t] < value_skip) continue;
                const double weight = std::exp(score[g * n + t] - largest[g]);
                sum += weight;
                mean_condition += weight * condition(t);
            }
            mean_condition /= sum;
            result.lse[head] = largest[g] + std::log(sum);
            for (std::size_t t = 0; t < n; ++t) {
                if (heaviest[t] < value_skip) continue;
                const double weight = std::exp(score[g * n + t] - largest[g]) / sum;
                const std::size_t at = cache.heads[kv_head].row(tokens[kv_head][t]) * dim;
                for (std::size_t i = 0; i < dim; ++i) {
                    const double term = weight * double{cache.values[at + i]};
                    result.output[head * dim + i] += term;
                    result.terms[head * dim + i] += std::abs(term) * (condition(t) + mean_condition);
                }
            }
        }
    }
    return result;
}

}  // namespace winnow::reference
