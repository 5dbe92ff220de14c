// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/attend_dense.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace winnow::reference {
namespace {

struct Seen {
    std::size_t row;
    double score, magnitude, weight;
};

}  // namespace

std::size_t HeadView::row(std::uint32_t token) const {
    std::uint32_t entry = token / block_size;
    if (ring_blocks != 0 && entry >= sink_blocks) entry = sink_blocks + (entry - sink_blocks) % ring_blocks;
    return std::size_t{blocks.at(entry)} * block_size + token % block_size;
}

bool HeadView::sees(std::uint32_t position, std::uint32_t token) const {
    if (token > position) return false;
    return window == 0 || position - token < window || token < sink_tokens;
}

Attended attend_dense(std::span<const float> query, const CacheView& cache, std::uint32_t position) {
    const std::size_t dim = cache.head_dim;
    const std::size_t n_heads = query.size() / dim;
    const std::size_t n_group = n_heads / cache.heads.size();
    Attended result{std::vector<double>(query.size()), std::vector<double>(query.size()), std::vector<double>(n_heads)};
    for (std::size_t h = 0; h < n_heads; ++h) {
        const HeadView& head = cache.heads[h / n_group];
        const float* q = query.data() + h * dim;
        std::vector<Seen> seen;
        double largest = -std::numeric_limits<double>::infinity();
        for (std::uint32_t token = 0; token <= position; ++token) {
            if (!head.sees(position, token)) continue;
            Seen s{head.row(token), 0, 0, 0};
            for (std::size_t i = 0; i < dim; ++i) {
                const double term = double{q[i]} * double{cache.keys[s.row * dim + i]};
                s.score += term;
                s.magnitude += std::abs(term);
            }
            largest = std::max(largest, s.score);
            seen.push_back(s);
        }
        double sum = 0;
        for (Seen& s : seen) sum += s.weight = std::exp(s.score - largest);
        result.lse[h] = largest + std::log(sum);

        const auto condition = [&](const Seen& s) { return 1 + s.magnitude + (largest - s.score); };
        double mean_condition = 0;  // what the denominator inherits
        for (Seen& s : seen) {
            s.weight /= sum;
            mean_condition += s.weight * condition(s);
        }
        for (const Seen& s : seen) {
            for (std::size_t i = 0; i < dim; ++i) {
                const double term = s.weight * double{cache.values[s.row * dim + i]};
                result.output[h * dim + i] += term;
                result.terms[h * dim + i] += std::abs(term) * (condition(s) + mean_condition);
            }
        }
    }
    return result;
}

}  // namespace winnow::reference
