// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/index_quality.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace winnow {
namespace {

// The k largest of row[begin, end), as ids.
std::vector<std::uint32_t> best_of(const float* row, std::uint32_t begin, std::uint32_t end, std::uint32_t k) {
    std::vector<std::uint32_t> ids(end - begin);
    std::iota(ids.begin(), ids.end(), begin);
    if (k >= ids.size()) return ids;
    std::nth_element(ids.begin(), ids.begin() + k, ids.end(),
                     [row](std::uint32_t a, std::uint32_t b) { return row[a] > row[b]; });
    ids.resize(k);
    return ids;
}

// True mass that the smallest set holds which has `mass` of every head's estimate, mean over rows and heads.
double captured_mass(const std::vector<Rows>& attention, const std::vector<Rows>& scores,
                     const std::vector<std::uint32_t>& positions, const Candidates& always, float mass,
                     float temperature) {
    const std::size_t n_group = attention.size();
    double sum = 0;
    for (std::size_t r = 0; r < positions.size(); ++r) {
        const auto row = static_cast<Eigen::Index>(r);
        const std::uint32_t n = positions[r] + 1, begin = std::min(always.begin(), n),
                            end = std::max(begin, always.end(positions[r]));
        std::vector<Eigen::ArrayXf> weights(n_group);
        Eigen::ArrayXf pooled = Eigen::ArrayXf::Zero(n);
        std::vector<double> estimate(n_group, 0), kept(n_group, 0);
        for (std::size_t g = 0; g < n_group; ++g) {
            Eigen::ArrayXf w = scores[g].row(row).head(n).transpose().array() * temperature;
            w = (w - w.maxCoeff()).exp();
            w /= w.sum();
            pooled = pooled.max(w);
            const auto p = attention[g].row(row);
            for (std::uint32_t t = 0; t < n; ++t) {
                if (t >= begin && t < end) continue;
                estimate[g] += w[t];
                kept[g] += p[t];
            }
            weights[g] = std::move(w);
        }
        std::vector<std::uint32_t> order(end - begin);
        std::iota(order.begin(), order.end(), begin);
        std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return pooled[a] > pooled[b]; });
        for (const std::uint32_t t : order) {
            if (*std::min_element(estimate.begin(), estimate.end()) >= mass) break;
            for (std::size_t g = 0; g < n_group; ++g) {
                estimate[g] += weights[g][t];
                kept[g] += attention[g](row, t);
            }
        }
        for (const double k : kept) sum += k / static_cast<double>(n_group * positions.size());
    }
    return sum;
}

}  // namespace

Rows index_scores(const Rows& queries, const Rows& keys, const IndexFit& fit, bool int8) {
    Rows codes = keys * fit.b.transpose();
    if (int8) {
        for (Eigen::Index t = 0; t < codes.rows(); ++t) {
            const float scale = std::max(codes.row(t).cwiseAbs().maxCoeff() / 127, 1e-12f);
            codes.row(t) = (codes.row(t) / scale).array().round().matrix() * scale;
        }
    }
    return (queries * fit.a.transpose()) * codes.transpose();
}

SelectionQuality measure_selection(const Rows& attention, const Rows& scores,
                                   const std::vector<std::uint32_t>& positions, const Candidates& candidates,
                                   std::uint32_t k) {
    SelectionQuality sum;
    for (std::size_t r = 0; r < positions.size(); ++r) {
        const auto row = static_cast<Eigen::Index>(r);
        const std::uint32_t begin = candidates.begin(), end = candidates.end(positions[r]);
        if (end < begin + 2 * k) continue;  // nothing to choose
        const float* p = attention.row(row).data();
        std::vector<std::uint32_t> truth = best_of(p, begin, end, k),
                                   found = best_of(scores.row(row).data(), begin, end, k);
        const auto mass_of = [p](const std::vector<std::uint32_t>& ids) {
            double mass = 0;
            for (const std::uint32_t t : ids) mass += p[t];
            return mass;
        };
        std::sort(truth.begin(), truth.end());
        std::size_t n_common = 0;
        for (const std::uint32_t t : found) n_common += std::binary_search(truth.begin(), truth.end(), t) ? 1 : 0;
        sum.mass += mass_of(found) / std::max(mass_of(truth), 1e-30);
        sum.recall += static_cast<double>(n_common) / k;
        ++sum.n_rows;
    }
    if (sum.n_rows != 0) {
        sum.mass /= sum.n_rows;
        sum.recall /= sum.n_rows;
    }
    return sum;
}

float fit_temperature(const std::vector<Rows>& attention, const std::vector<Rows>& scores,
                      const std::vector<std::uint32_t>& positions, const Candidates& always, float mass,
                      float* captured) {
    // The captured mass falls as the factor grows: a sharper estimate keeps fewer tokens.
    float low = 0.3f, high = 1.3f;
    const auto at = [&](float t) {
        return static_cast<float>(captured_mass(attention, scores, positions, always, mass, t));
    };
    float best = low, best_mass = 0;
    if (const float sharp = at(high); sharp >= mass) {
        best = high;
        best_mass = sharp;
    } else {
        for (int i = 0; i < 5; ++i) {
            const float middle = (low + high) / 2, got = at(middle);
            if (got >= mass) {
                low = best = middle;
                best_mass = got;
            } else {
                high = middle;
            }
        }
        if (best_mass == 0) best_mass = at(best);
    }
    if (captured != nullptr) *captured = best_mass;
    return best;
}

}  // namespace winnow
