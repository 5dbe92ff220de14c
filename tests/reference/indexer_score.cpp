// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/indexer_score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/reference/summarize_block.h"

namespace winnow::reference {
namespace {

double dot(std::span<const double> a, std::span<const double> b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

struct Scored {
    const SelectView& view;
    std::uint32_t kv_head;
    std::vector<std::vector<double>> queries;  // of the group, or their index queries
    bool indexed;

    std::vector<double> key(Scorer scorer, std::uint32_t token) const {
        const std::size_t dim = indexed ? view.index_dim : view.cache.head_dim;
        std::span<const float> rows = indexed ? view.index_keys : view.cache.keys;
        if (scorer == Scorer::kCodes) rows = view.coded_keys;
        const auto first = rows.begin() + static_cast<std::ptrdiff_t>(view.cache.heads[kv_head].row(token) * dim);
        return {first, first + static_cast<std::ptrdiff_t>(dim)};
    }
    double score(std::size_t g, const SelectLevel& level, std::uint32_t unit) const {
        if (level.unit == 1) return dot(queries[g], key(level.scorer, unit));
        const std::uint32_t begin = unit * level.unit, end = std::min(begin + level.unit, view.position + 1);
        if (level.scorer == Scorer::kLowdimMean) {
            double sum = 0;  // index keys before they are rounded
            const std::size_t map = view.index_dim * view.cache.head_dim;
            for (std::uint32_t t = begin; t < end; ++t)
                sum += dot(queries[g],
                           index_key(view.cache, kv_head, t, view.maps.subspan((2 * kv_head + 1) * map, map)).value);
            return sum / (end - begin);
        }
        const Summary s = summarize_block(view.cache, kv_head, begin, end);
        if (level.scorer == Scorer::kMean) return dot(queries[g], s.sum) / (end - begin);
        double bound = 0;
        const auto stored = [&](double key) {
            return view.stored_extreme == nullptr ? key : double{view.stored_extreme(key)};
        };
        for (std::size_t i = 0; i < view.cache.head_dim; ++i)
            bound += std::max(queries[g][i] * stored(s.min[i]), queries[g][i] * stored(s.max[i]));
        return bound;
    }
};

}  // namespace

std::uint32_t SelectView::middle_end() const {
    const std::uint32_t block = cache.heads[0].block_size;
    const std::uint32_t beyond = position + 1 > window ? position + 1 - window : 0;
    return std::max(std::min(beyond, position) / block * block, sinks);
}

Level indexer_score(const SelectView& v, const SelectLevel& level, std::uint32_t kv_head,
                    const std::vector<std::uint32_t>* parents, std::uint32_t parent_unit,
                    std::span<const double> dropped) {
    const std::size_t dim = v.cache.head_dim;
    Scored s{v,
             kv_head,
             {},
             level.scorer == Scorer::kLowdim || level.scorer == Scorer::kLowdimMean || level.scorer == Scorer::kCodes};
    for (std::uint32_t g = 0; g < v.n_group(); ++g) {
        const std::span<const float> q = v.query.subspan((kv_head * v.n_group() + g) * dim, dim);
        s.queries.emplace_back(q.begin(), q.end());
        if (!s.indexed) continue;
        std::vector<double> index_query(v.index_dim);
        for (std::size_t r = 0; r < v.index_dim; ++r)
            for (std::size_t i = 0; i < dim; ++i)
                index_query[r] += double{v.maps[(2 * kv_head * v.index_dim + r) * dim + i]} * double{q[i]};
        s.queries.back() = index_query;
    }
    const std::uint32_t middle_end = v.middle_end();
    Level result;
    for (std::uint32_t unit = 0; unit * level.unit < middle_end; ++unit) {
        if (parents != nullptr &&
            !std::binary_search(parents->begin(), parents->end(), unit * level.unit / parent_unit))
            continue;
        const std::uint32_t from = std::max(unit * level.unit, v.sinks);
        const std::uint32_t to = std::min((unit + 1) * level.unit, middle_end);
        if (to > from) result.rows.push_back({unit, to - from, {}, 0});
    }
    const SelectLevel token{.scorer =
                                s.indexed ? Scorer::kLowdim : Scorer::kExact};  // sinks, window and the open block
    for (std::uint32_t g = 0; g < v.n_group(); ++g) {
        std::vector<double> sure;
        for (std::uint32_t t = 0; t <= v.position; ++t)
            if (t < v.sinks || t >= middle_end) sure.push_back(s.score(g, token, t));
        double largest = dropped.empty() ? sure[0] : dropped[g];
        for (const double score : sure) largest = std::max(largest, score);
        for (Row& row : result.rows) {
            row.log_weight.push_back(s.score(g, level, row.unit));
            largest = std::max(largest, row.log_weight[g]);
        }
        double sure_sum = 0;
        for (const double score : sure) sure_sum += std::exp(score - largest);
        double sum = sure_sum + (dropped.empty() ? 0 : std::exp(dropped[g] - largest));
        for (const Row& row : result.rows) sum += row.n_tokens * std::exp(row.log_weight[g] - largest);
        result.lse.push_back(largest + std::log(sum));
        result.sure.push_back(sure_sum / sum);
        for (Row& row : result.rows) row.log_weight[g] -= result.lse[g];
    }
    for (Row& row : result.rows) {
        double mean = 0;
        for (const double w : row.log_weight) mean += std::exp(w) / static_cast<double>(row.log_weight.size());
        row.pooled = v.pool == HeadPool::kMean ? std::log(std::max(mean, 1e-30))
                                               : *std::max_element(row.log_weight.begin(), row.log_weight.end());
    }
    return result;
}

Level head_ranking(const Level& scored, std::size_t g) {
    Level own{scored.rows, {scored.sure[g]}, {scored.lse[g]}};
    for (Row& row : own.rows) row = {row.unit, row.n_tokens, {row.log_weight[g]}, row.log_weight[g]};
    return own;
}

std::vector<double> dropped_mass(const Level& scored, std::span<const std::size_t> kept) {
    std::vector<double> result;
    for (std::size_t g = 0; g < scored.lse.size(); ++g) {
        double mass = scored.sure[g];
        for (const std::size_t i : kept) mass += scored.rows[i].n_tokens * std::exp(scored.rows[i].log_weight[g]);
        result.push_back(scored.lse[g] + std::log(std::max(1 - mass, 1e-9)));
    }
    return result;
}

}  // namespace winnow::reference
