// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/moments.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace winnow {
namespace {

constexpr std::uint32_t kLeast = 2048;  // tokens of the shortest context

void add_outer(Eigen::MatrixXd& sum, const Eigen::Ref<const Eigen::MatrixXf>& rows) {
    if (sum.size() == 0) sum.setZero(rows.cols(), rows.cols());
    constexpr Eigen::Index kRows = 128;  // few enough for sums in f32
    for (Eigen::Index at = 0; at < rows.rows(); at += kRows) {
        const auto part = rows.middleRows(at, std::min(kRows, rows.rows() - at));
        const Eigen::MatrixXf product = part.transpose() * part;
        sum += product.cast<double>();
    }
}

}  // namespace

void Moments::add_queries(const Eigen::Ref<const Eigen::MatrixXf>& rows) {
    add_outer(query, rows);
    n_queries += static_cast<double>(rows.rows());
}

void Moments::add_keys(const Eigen::Ref<const Eigen::MatrixXf>& rows) {
    add_outer(key, rows);
    if (key_mean.size() == 0) key_mean.setZero(rows.cols());
    key_mean += rows.cast<double>().colwise().sum().transpose();
    n_keys += static_cast<double>(rows.rows());
}

Moments Moments::mixed_with(const Moments& other, double share) const {
    const double q = (1 - share) / std::max(n_queries, 1.0), k = (1 - share) / std::max(n_keys, 1.0);
    const double other_q = share / std::max(other.n_queries, 1.0), other_k = share / std::max(other.n_keys, 1.0);
    return {query * q + other.query * other_q,
            key * k + other.key * other_k,
            key_mean * k + other.key_mean * other_k,
            1,
            1,
            {}};
}

IndexMoments spread_moments(const Moments& m, const RopeSpace& rope, std::uint32_t n_ctx) {
    const Eigen::VectorXd mean = rope.spread_mean(m.key_mean / m.n_keys, 0, n_ctx);
    return {rope.spread_second(m.query / m.n_queries, n_ctx / 2, n_ctx),
            rope.spread_second(m.key / m.n_keys, 0, n_ctx) - mean * mean.transpose()};
}

Eigen::MatrixXf spread_keys_up_to(const Moments& m, const RopeSpace& rope, std::uint32_t n_ctx,
                                  std::uint32_t n_places) {
    const Eigen::Index n = m.some_keys.rows();
    Eigen::MatrixXf out(n * n_places, m.some_keys.cols());
    std::uint32_t context = n_ctx;
    for (std::uint32_t place = 0; place < n_places; ++place) {
        std::vector<std::uint32_t> positions;
        for (Eigen::Index i = 0; i < n; ++i) {  // multiples of the golden ratio leave no gaps
            const double turn = 0.6180339887498949 * static_cast<double>(i) + 0.4142135623730951 * place;
            positions.push_back(static_cast<std::uint32_t>((turn - std::floor(turn)) * context));
        }
        auto rows = out.middleRows(place * n, n);
        rows = m.some_keys;
        rope.rotate(rows, positions, 1);
        context = context / 2 >= kLeast ? context / 2 : n_ctx;
    }
    return out;
}

IndexMoments spread_moments_up_to(const Moments& m, const RopeSpace& rope, std::uint32_t n_ctx) {
    IndexMoments sum = spread_moments(m, rope, n_ctx);
    double n = 1;
    for (std::uint32_t shorter = n_ctx / 2; shorter >= kLeast; shorter /= 2, ++n) {
        const IndexMoments one = spread_moments(m, rope, shorter);
        sum.query += one.query;
        sum.key += one.key;
    }
    return {sum.query / n, sum.key / n};
}

}  // namespace winnow
