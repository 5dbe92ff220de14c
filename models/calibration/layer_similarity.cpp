// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/layer_similarity.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace winnow {

LayerSimilarity::LayerSimilarity(const ModelShape& shape, std::vector<std::uint32_t> positions, Candidates candidates, std::uint32_t k)
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

void LayerSimilarity::choose_anchors(Calibration& c, std::uint32_t n_anchors) const {
    const std::uint32_t n_layers = shape_.n_layers, n_kv = shape_.n_kv_heads;
    std::vector<std::uint32_t> full;
    for (std::uint32_t i = 0; i < n_layers; ++i)
        if (shape_.layers[i].window == 0) full.push_back(i);
    c.similarity.assign(std::size_t{n_layers} * n_layers, 0);
    c.head_maps.assign(std::size_t{n_layers} * n_kv, 0);
    for (std::uint32_t i = 0; i < n_layers; ++i)
        for (std::uint32_t h = 0; h < n_kv; ++h) c.head_maps[i * n_kv + h] = h;
    c.anchors.clear();

    // Best head of layer `from` for each head of layer `to`.
    std::vector<std::uint32_t> best_heads(std::size_t{n_layers} * n_layers * n_kv, 0);
    parallel_for(full.size(), [&](std::size_t f) {
        for (const std::uint32_t to : full) {
            const std::uint32_t from = full[f];
            if (to < from) continue;
            double sum = 0;
            for (std::uint32_t h = 0; h < n_kv; ++h) {
                double best = -1;
                for (std::uint32_t other = 0; other < n_kv; ++other) {
                    const double mass = shared_mass(heads_[from * n_kv + other], heads_[to * n_kv + h]);
                    if (mass <= best) continue;
                    best = mass;
                    best_heads[(from * n_layers + to) * n_kv + h] = other;
                }
                sum += best;
            }
            c.similarity[from * n_layers + to] = static_cast<float>(sum / n_kv);
        }
    });
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
    std::size_t next = 0;
    std::uint32_t source = 0;
    for (const std::uint32_t layer : full) {
        if (next < c.anchors.size() && c.anchors[next] == layer) {
            source = layer;
            ++next;
        } else if (next > 0) {
            for (std::uint32_t h = 0; h < n_kv; ++h)
                c.head_maps[layer * n_kv + h] = best_heads[(source * n_layers + layer) * n_kv + h];
        }
    }
}

}  // namespace winnow
