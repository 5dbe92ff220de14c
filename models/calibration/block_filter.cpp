// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/block_filter.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "runtime/attention/indexer_score.h"

namespace winnow {
namespace {

constexpr std::uint32_t kBlock = 64;  // of the cache: the middle region ends with one

using Ids = std::vector<std::uint32_t>;

double log_sum(const std::vector<double>& logs) {
    const double most = *std::max_element(logs.begin(), logs.end());
    double sum = 0;
    for (const double x : logs) sum += std::exp(x - most);
    return most + std::log(sum);
}

// Tokens [sink, end) compete; the others are attended in any case.
std::uint32_t middle_end(const SparsePolicy& p, std::uint32_t position) {
    const std::uint32_t beyond = position + 1 > p.window ? position + 1 - p.window : 0;
    return std::max(std::min(beyond, position) / kBlock * kBlock, p.sink);
}

std::uint32_t budget_of(const SparsePolicy& p, std::size_t level, std::uint32_t position) {
    const SelectLevel& l = p.levels[level];
    const std::uint32_t fixed =
        level + 1 == p.levels.size() ? l.budget - std::min(l.budget, p.sink + p.window) : l.budget;
    return std::max(fixed, static_cast<std::uint32_t>(l.budget_share * static_cast<float>(position + 1)));
}

std::uint32_t tokens_of(std::uint32_t unit, std::uint32_t size, std::uint32_t begin, std::uint32_t end) {
    const std::uint32_t from = std::max(unit * size, begin), to = std::min((unit + 1) * size, end);
    return to > from ? to - from : 0;
}

// The units with the largest values until they hold the budget, ascending.
Ids best_units(const Ids& units, const std::vector<double>& values, std::uint32_t size, std::uint32_t begin,
               std::uint32_t end, std::uint32_t budget) {
    std::vector<std::size_t> order(units.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
    Ids kept;
    std::uint32_t count = 0;
    for (const std::size_t i : order) {
        if (count >= budget) break;
        kept.push_back(units[i]);
        count += tokens_of(units[i], size, begin, end);
    }
    std::sort(kept.begin(), kept.end());
    return kept;
}

double overlap_of(const Ids& a, const Ids& b) {
    Ids both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    const std::size_t either = a.size() + b.size() - both.size();
    return either == 0 ? 1 : static_cast<double>(both.size()) / static_cast<double>(either);
}

}  // namespace

SparsePolicy scaled_budgets(SparsePolicy p, std::uint32_t n_tokens, std::uint32_t n_reference) {
    const double scale = static_cast<double>(n_tokens) / n_reference;
    const std::uint32_t always = p.sink + p.window;
    for (std::size_t i = 0; i < p.levels.size(); ++i) {
        const std::uint32_t fixed = i + 1 == p.levels.size() ? std::min(always, p.levels[i].budget) : 0;
        p.levels[i].budget = fixed + static_cast<std::uint32_t>(std::lround((p.levels[i].budget - fixed) * scale));
    }
    return p;
}

SparsePolicy without_filter(SparsePolicy p) {
    p.levels = {p.levels.back()};
    return p;
}

std::vector<std::uint32_t> choose_by_index(const SparsePolicy& p, const Rows& queries, const Rows& keys,
                                           const Rows& coded, std::uint32_t position) {
    const std::uint32_t begin = p.sink, end = middle_end(p, position);
    const auto n_group = static_cast<std::size_t>(queries.rows());
    const Rows exact = queries * keys.topRows(position + 1).transpose();
    Rows by_codes;
    if (coded.size() != 0) by_codes = queries * coded.topRows(position + 1).transpose();
    std::vector<double> dropped;  // log of what the levels above left out, by query head
    Ids parents;
    std::uint32_t parent_size = 0;
    for (std::size_t level = 0; level < p.levels.size(); ++level) {
        const std::uint32_t size = p.levels[level].unit;
        Ids units;
        for (std::uint32_t u = 0; u * size < end; ++u)
            if (tokens_of(u, size, begin, end) != 0 &&
                (parent_size == 0 || std::binary_search(parents.begin(), parents.end(), u * size / parent_size)))
                units.push_back(u);
        std::vector<double> pooled(units.size(), -1e30), lse(n_group);
        Rows weights(static_cast<Eigen::Index>(n_group), static_cast<Eigen::Index>(units.size()));
        for (std::size_t g = 0; g < n_group; ++g) {
            const auto sure = exact.row(static_cast<Eigen::Index>(g));
            const Rows& scores = p.levels[level].scorer == Scorer::kCodes ? by_codes : exact;
            const auto row = scores.row(static_cast<Eigen::Index>(g));
            std::vector<double> logs;
            for (std::uint32_t t = 0; t <= position; ++t)
                if (t < begin || t >= end) logs.push_back(sure[t]);
            if (!dropped.empty()) logs.push_back(dropped[g]);
            for (std::size_t i = 0; i < units.size(); ++i) {
                const std::uint32_t first = units[i] * size, n = std::min(size, position + 1 - first);
                const float mean = row.segment(first, n).mean();  // a mean key's score is the mean of the scores
                weights(static_cast<Eigen::Index>(g), static_cast<Eigen::Index>(i)) = mean;
                logs.push_back(mean + std::log(static_cast<double>(tokens_of(units[i], size, begin, end))));
            }
            lse[g] = log_sum(logs);
            for (std::size_t i = 0; i < units.size(); ++i)
                pooled[i] =
                    std::max(pooled[i], weights(static_cast<Eigen::Index>(g), static_cast<Eigen::Index>(i)) - lse[g]);
        }
        const Ids kept = best_units(units, pooled, size, begin, end, budget_of(p, level, position));
        std::vector<double> rest(n_group, 0);
        for (std::size_t i = 0; i < units.size(); ++i) {
            if (std::binary_search(kept.begin(), kept.end(), units[i])) continue;
            for (std::size_t g = 0; g < n_group; ++g)
                rest[g] += tokens_of(units[i], size, begin, end) *
                           std::exp(weights(static_cast<Eigen::Index>(g), static_cast<Eigen::Index>(i)) - lse[g]);
        }
        for (std::size_t g = 0; g < n_group; ++g) {
            if (!dropped.empty()) rest[g] += std::exp(dropped[g] - lse[g]);
            rest[g] = lse[g] + std::log(std::max(rest[g], 1e-9));
        }
        dropped = rest;
        parents = kept;
        parent_size = size;
    }
    return parents;
}

FilterQuality measure_filter(const SparsePolicy& p, const Rows& queries, const Rows& keys, const Rows& coded,
                             const Rows& attention, std::uint32_t position) {
    const SparsePolicy unfiltered = without_filter(p);
    const Ids found = choose_by_index(p, queries, keys, coded, position),
              wanted = choose_by_index(unfiltered, queries, keys, coded, position);
    const std::uint32_t begin = p.sink, end = middle_end(p, position), size = p.levels.front().unit;
    Ids blocks((end + size - 1) / size);
    std::iota(blocks.begin(), blocks.end(), 0u);
    std::vector<double> counts(blocks.size(), 0);
    for (const std::uint32_t t : wanted) ++counts[t / size];
    const Ids best = best_units(blocks, counts, size, begin, end, budget_of(p, 0, position));
    std::size_t n_within = 0;
    for (const std::uint32_t t : wanted) n_within += std::binary_search(best.begin(), best.end(), t / size) ? 1 : 0;
    const auto mass = [&](const Ids& ids) {
        double sum = 0;
        for (const std::uint32_t t : ids) sum += attention.col(t).sum();
        return sum;
    };
    // What is missing is made up by others of the kept blocks, so that both sets are as large.
    const auto n = static_cast<double>(wanted.size()), within = static_cast<double>(n_within);
    FilterQuality q;
    q.overlap = overlap_of(found, wanted);
    // Whole units pass a budget by up to one, so that by chance a filter may keep a block more than the best.
    q.ceiling = n == 0 ? 1 : std::max(within / (2 * n - within), q.overlap);
    q.mass = mass(found) / std::max(mass(wanted), 1e-30);
    q.n_positions = 1;
    return q;
}

std::uint64_t index_bytes(const SparsePolicy& p, std::uint32_t n_tokens) {
    std::uint64_t sum = 0, candidates = n_tokens;
    for (const SelectLevel& level : p.levels) {
        IndexerScore::Config c;
        c.n_heads = c.n_kv_heads = 1;
        c.level = level;
        c.index_dim = p.index_dim;
        c.index_type = p.index_type;
        sum += IndexerScore::bytes_moved(c, candidates);
        const auto share = static_cast<std::uint64_t>(level.budget_share * static_cast<double>(n_tokens));
        candidates = std::min(candidates, std::max<std::uint64_t>(level.budget, share));
    }
    return sum;
}

}  // namespace winnow
