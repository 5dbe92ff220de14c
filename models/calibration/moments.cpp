// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/moments.h"

#include <algorithm>

namespace winnow {
namespace {

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
    return {query * q + other.query * other_q, key * k + other.key * other_k, key_mean * k + other.key_mean * other_k,
            1, 1};
}

IndexMoments spread_moments(const Moments& m, const RopeSpace& rope, std::uint32_t n_ctx) {
    const Eigen::VectorXd mean = rope.spread_mean(m.key_mean / m.n_keys, 0, n_ctx);
    return {rope.spread_second(m.query / m.n_queries, n_ctx / 2, n_ctx),
            rope.spread_second(m.key / m.n_keys, 0, n_ctx) - mean * mean.transpose()};
}

IndexMoments spread_moments_up_to(const Moments& m, const RopeSpace& rope, std::uint32_t n_ctx) {
    constexpr std::uint32_t kLeast = 2048;
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
