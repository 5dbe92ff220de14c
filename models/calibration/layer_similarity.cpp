// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/layer_similarity.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace winnow {
namespace {

// HyLRA keeps 2048 tokens of long texts: an eighth of 16,384.
constexpr std::size_t kListedPart = 8, kMostListed = 2048;

}  // namespace

LayerSimilarity::LayerSimilarity(const ModelShape& shape, std::vector<std::uint32_t> positions, Candidates candidates,
                                 std::uint32_t k)
    : shape_(shape), positions_(std::move(positions)), candidates_(candidates), k_(k) {
    heads_.resize(std::size_t{shape.n_layers} * shape.n_kv_heads);
}

void LayerSimilarity::add(std::uint32_t layer, std::uint32_t kv_head, const Rows& pooled) {
    Head& head = heads_[layer * shape_.n_kv_heads + kv_head];
    head.attention = pooled;
    for (std::size_t r = 0; r < positions_.size(); ++r) {
        const float* row = head.attention.row(static_cast<Eigen::Index>(r)).data();
        std::vector<std::uint32_t> ids(candidates_.end(positions_[r]) - candidates_.begin());
        std::iota(ids.begin(), ids.end(), candidates_.begin());
        const std::size_t k = std::min<std::size_t>(k_, ids.size());
        std::nth_element(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(k), ids.end(),
                         [row](std::uint32_t a, std::uint32_t b) { return row[a] > row[b]; });
        ids.resize(k);
        double mass = 0;
        for (const std::uint32_t t : ids) mass += row[t];
        std::vector<std::uint32_t> listed(candidates_.end(positions_[r]) - candidates_.begin());
        std::iota(listed.begin(), listed.end(), candidates_.begin());
        const std::size_t n_listed = std::min<std::size_t>(listed.size() / kListedPart, kMostListed);
        std::nth_element(listed.begin(), listed.begin() + static_cast<std::ptrdiff_t>(n_listed), listed.end(),
                         [row](std::uint32_t a, std::uint32_t b) { return row[a] > row[b]; });
        listed.resize(n_listed);
        std::sort(listed.begin(), listed.end());
        head.listed.push_back(std::move(listed));
        head.best.push_back(std::move(ids));
        head.best_mass.push_back(mass);
    }
}

double LayerSimilarity::shared_mass(const Head& from, const Head& to) const {
    double sum = 0;
    for (std::size_t r = 0; r < positions_.size(); ++r) {
        const float* row = to.attention.row(static_cast<Eigen::Index>(r)).data();
        double mass = 0;
        for (const std::uint32_t t : from.best[r]) mass += row[t];
        sum += to.best_mass[r] > 0 ? mass / to.best_mass[r] : 1;
    }
    return positions_.empty() ? 1 : sum / static_cast<double>(positions_.size());
}

double LayerSimilarity::shared_tokens(const Head& from, const Head& to) const {
    double sum = 0;
    for (std::size_t r = 0; r < positions_.size(); ++r) {
        std::size_t n_common = 0;
        auto a = from.listed[r].begin(), b = to.listed[r].begin();
        while (a != from.listed[r].end() && b != to.listed[r].end()) {
            n_common += *a == *b ? 1 : 0;
            const bool next_a = *a <= *b, next_b = *b <= *a;
            a += next_a ? 1 : 0;
            b += next_b ? 1 : 0;
        }
        sum += to.listed[r].empty() ? 1 : static_cast<double>(n_common) / static_cast<double>(to.listed[r].size());
    }
    return positions_.empty() ? 1 : sum / static_cast<double>(positions_.size());
}

std::vector<std::uint32_t> LayerSimilarity::full_layers() const {
    std::vector<std::uint32_t> full;
    for (std::uint32_t i = 0; i < shape_.n_layers; ++i)
        if (shape_.layers[i].window == 0) full.push_back(i);
    return full;
}

std::vector<float> LayerSimilarity::compare(double (LayerSimilarity::*value)(const Head&, const Head&) const,
                                            std::vector<std::uint32_t>& best_heads) const {
    const std::uint32_t n_layers = shape_.n_layers, n_kv = shape_.n_kv_heads;
    const std::vector<std::uint32_t> full = full_layers();
    std::vector<float> table(std::size_t{n_layers} * n_layers, 0);
    best_heads.assign(table.size() * n_kv, 0);
    parallel_for(full.size(), [&](std::size_t f) {
        for (const std::uint32_t to : full) {
            const std::uint32_t from = full[f];
            if (to < from) continue;
            double sum = 0;
            for (std::uint32_t h = 0; h < n_kv; ++h) {
                double best = -1;
                for (std::uint32_t other = 0; other < n_kv; ++other) {
                    const double found = (this->*value)(heads_[from * n_kv + other], heads_[to * n_kv + h]);
                    if (found <= best) continue;
                    best = found;
                    best_heads[(from * n_layers + to) * n_kv + h] = other;
                }
                sum += best;
            }
            table[from * n_layers + to] = static_cast<float>(sum / n_kv);
        }
    });
    return table;
}

namespace {

// Each full layer that is no anchor takes the heads that suit it best of the anchor before it; all others keep their
// own.
std::vector<std::uint32_t> maps_of(const ModelShape& shape, const std::vector<std::uint32_t>& full,
                                   const std::vector<std::uint32_t>& anchors,
                                   const std::vector<std::uint32_t>& best_heads) {
    const std::uint32_t n_layers = shape.n_layers, n_kv = shape.n_kv_heads;
    std::vector<std::uint32_t> maps;
    for (std::uint32_t i = 0; i < n_layers; ++i)
        for (std::uint32_t h = 0; h < n_kv; ++h) maps.push_back(h);
    std::size_t next = 0;
    std::uint32_t source = 0;
    for (const std::uint32_t layer : full) {
        if (next < anchors.size() && anchors[next] == layer) {
            source = layer;
            ++next;
        } else if (next > 0) {
            for (std::uint32_t h = 0; h < n_kv; ++h)
                maps[layer * n_kv + h] = best_heads[(source * n_layers + layer) * n_kv + h];
        }
    }
    return maps;
}

}  // namespace

void LayerSimilarity::choose_refreshes(Calibration& c, double least_overlap) const {
    const std::vector<std::uint32_t> full = full_layers();
    std::vector<std::uint32_t> best_heads;
    c.overlap = compare(&LayerSimilarity::shared_tokens, best_heads);
    c.refresh_layers.clear();
    // best[i]: fewest refreshes of the layers before i, and the overlap of those that reuse; from[i]: the last of the
    // refreshes.
    struct Cost {
        std::size_t n = 0;
        double overlap = 0;
    };
    std::vector<Cost> best(full.size() + 1, {full.size() + 1, 0});
    std::vector<std::size_t> from(full.size() + 1, 0);
    best[0].n = 0;
    for (std::size_t a = 0; a < full.size(); ++a) {
        double overlap = 0;
        for (std::size_t end = a + 1; end <= full.size(); ++end) {
            if (end > a + 1) {
                const double one = c.overlap[full[a] * shape_.n_layers + full[end - 1]];
                if (one < least_overlap) break;
                overlap += one;
            }
            const Cost cost{best[a].n + 1, best[a].overlap + overlap};
            if (cost.n > best[end].n || (cost.n == best[end].n && cost.overlap <= best[end].overlap)) continue;
            best[end] = cost;
            from[end] = a;
        }
    }
    for (std::size_t end = full.size(); end > 0; end = from[end])
        c.refresh_layers.insert(c.refresh_layers.begin(), full[from[end]]);
    c.refresh_maps = maps_of(shape_, full, c.refresh_layers, best_heads);
}

void LayerSimilarity::choose_anchors(Calibration& c, std::uint32_t n_anchors) const {
    const std::uint32_t n_layers = shape_.n_layers;
    const std::vector<std::uint32_t> full = full_layers();
    std::vector<std::uint32_t> best_heads;
    c.similarity = compare(&LayerSimilarity::shared_mass, best_heads);
    c.anchors.clear();
    c.head_maps = maps_of(shape_, full, {}, best_heads);
    if (full.size() < 3) return;  // one dense layer and nothing to lend to

    // best[m][i]: most similarity of the layers 1..i when the last of m+1 anchors covers up to i.
    const std::size_t n = full.size(), most = std::min<std::size_t>(n_anchors, n - 1);
    const auto covers = [&](std::size_t anchor, std::size_t last) {
        double sum = 0;
        for (std::size_t i = anchor; i <= last; ++i) sum += c.similarity[full[anchor] * n_layers + full[i]];
        return sum;
    };
    constexpr double kNone = -std::numeric_limits<double>::infinity();
    std::vector<std::vector<double>> best(most, std::vector<double>(n, kNone));
    std::vector<std::vector<std::size_t>> anchor(most, std::vector<std::size_t>(n, 0));
    for (std::size_t m = 0; m < most; ++m) {
        for (std::size_t i = 1; i < n; ++i) {
            for (std::size_t a = m == 0 ? 1 : m + 1; a <= (m == 0 ? 1 : i); ++a) {
                const double value = (m == 0 ? 0 : best[m - 1][a - 1]) + covers(a, i);
                if (value <= best[m][i]) continue;
                best[m][i] = value;
                anchor[m][i] = a;
            }
        }
    }
    for (std::size_t m = most, i = n - 1; m-- > 0;) {
        c.anchors.insert(c.anchors.begin(), full[anchor[m][i]]);
        i = anchor[m][i] - 1;
    }
    c.head_maps = maps_of(shape_, full, c.anchors, best_heads);
}

}  // namespace winnow
