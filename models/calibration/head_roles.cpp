// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/head_roles.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace winnow {
namespace {

constexpr float kNever = 1e9f;

// levels[h] = min(levels[h], rank of the head among `heads` as a share of them / share).
void rank(const std::vector<float>& scores, const std::vector<std::uint32_t>& heads, float share,
          std::vector<float>& levels) {
    std::vector<std::uint32_t> order = heads;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return scores[a] > scores[b]; });
    const auto n = static_cast<float>(order.size());
    for (std::size_t i = 0; i < order.size(); ++i)
        levels[order[i]] = std::min(levels[order[i]], (static_cast<float>(i) + 1) / n / share);
}

}  // namespace

std::vector<float> head_levels(const Calibration& c, const ModelShape& shape) {
    std::vector<std::uint32_t> heads;
    for (std::uint32_t h = 0; h < shape.n_layers * shape.n_heads; ++h)
        if (shape.layers[h / shape.n_heads].window == 0) heads.push_back(h);
    std::vector<float> levels(std::size_t{shape.n_layers} * shape.n_heads, kNever);
    rank(c.induction, heads, 0.14f, levels);
    rank(c.echo, heads, 0.01f, levels);
    rank(c.retrieval, heads, 0.15f, levels);
    std::vector<float> kv_levels(std::size_t{shape.n_layers} * shape.n_kv_heads, kNever);
    for (std::size_t h = 0; h < levels.size(); ++h) {
        float& level = kv_levels[h / shape.n_group()];
        level = std::min(level, levels[h]);
    }
    return kv_levels;
}

bool has_retrieval_heads(const Calibration& c) {
    constexpr float kLeast = 0.1f;
    for (const auto* scores : {&c.induction, &c.retrieval})
        if (std::any_of(scores->begin(), scores->end(), [](float score) { return score >= kLeast; })) return true;
    return false;
}

void mark_full_heads(Calibration& c, const ModelShape& shape, const std::vector<float>& levels, float level) {
    c.full_heads.assign(levels.size(), 0);
    std::size_t n_full = 0, n = 0;
    for (std::size_t i = 0; i < levels.size(); ++i) {
        if (shape.layers[i / shape.n_kv_heads].window != 0) continue;
        c.full_heads[i] = levels[i] <= level ? 1 : 0;
        n_full += c.full_heads[i];
        ++n;
    }
    c.full_share = n == 0 ? 1 : static_cast<float>(n_full) / static_cast<float>(n);
}

float level_of_share(const ModelShape& shape, const std::vector<float>& levels, float share) {
    std::vector<float> sorted;
    for (std::size_t i = 0; i < levels.size(); ++i)
        if (shape.layers[i / shape.n_kv_heads].window == 0) sorted.push_back(levels[i]);
    std::sort(sorted.begin(), sorted.end());
    const auto n = static_cast<std::size_t>(std::lround(share * static_cast<float>(sorted.size())));
    return n == 0 ? -1 : sorted[n - 1];
}

}  // namespace winnow
