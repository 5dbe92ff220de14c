// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/rope_space.h"

#include <cmath>
#include <complex>
#include <numeric>

namespace winnow {
namespace {

using Complex = std::complex<double>;

// Mean of exp(i n angle) over n in [begin, end): a geometric sum.
Complex mean_turn(double angle, std::uint32_t begin, std::uint32_t end) {
    const double n = end - begin;
    const double half = angle / 2;
    if (std::fabs(std::sin(half)) < 1e-12) return std::polar(1.0, angle * begin);
    return std::polar(1.0, angle * begin + half * (n - 1)) * (std::sin(half * n) / (n * std::sin(half)));
}

}  // namespace

RopeSpace::RopeSpace(const ModelShape& shape, const LayerShape& layer) {
    const std::uint32_t half = shape.n_rot / 2;
    for (std::uint32_t i = 0; i < shape.head_dim / 2; ++i) {
        if (i >= half) {
            pairs_.emplace_back(2 * i, 2 * i + 1);
            angles_.push_back(0);
            continue;
        }
        if (shape.rope_pairing == RopePairing::kNeox) pairs_.emplace_back(i, i + half);
        else pairs_.emplace_back(2 * i, 2 * i + 1);
        double angle = std::pow(static_cast<double>(layer.rope_freq_base), -2.0 * i / shape.n_rot);
        if (!shape.rope_freq_divisors.empty()) angle /= shape.rope_freq_divisors[i];
        angles_.push_back(angle * layer.rope_freq_scale);
    }
}

void RopeSpace::rotate(Eigen::Ref<Eigen::MatrixXf> x, std::uint32_t first, int sign) const {
    std::vector<std::uint32_t> positions(static_cast<std::size_t>(x.rows()));
    std::iota(positions.begin(), positions.end(), first);
    rotate(x, positions, sign);
}

void RopeSpace::rotate(Eigen::Ref<Eigen::MatrixXf> x, const std::vector<std::uint32_t>& positions, int sign) const {
    for (std::size_t p = 0; p < pairs_.size(); ++p) {
        if (angles_[p] == 0) continue;
        const auto [a, b] = pairs_[p];
        for (Eigen::Index row = 0; row < x.rows(); ++row) {
            const double angle = sign * angles_[p] * positions[static_cast<std::size_t>(row)];
            const auto c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
            const float u = x(row, a), v = x(row, b);
            x(row, a) = u * c - v * s;
            x(row, b) = u * s + v * c;
        }
    }
}

Eigen::VectorXd RopeSpace::spread_mean(const Eigen::VectorXd& mean, std::uint32_t begin, std::uint32_t end) const {
    Eigen::VectorXd out = mean;
    for (std::size_t p = 0; p < pairs_.size(); ++p) {
        const auto [a, b] = pairs_[p];
        const Complex z = Complex(mean[a], mean[b]) * mean_turn(angles_[p], begin, end);
        out[a] = z.real();
        out[b] = z.imag();
    }
    return out;
}

Eigen::MatrixXd RopeSpace::spread_second(const Eigen::MatrixXd& m, std::uint32_t begin, std::uint32_t end) const {
    Eigen::MatrixXd out = m;
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
        for (std::size_t j = 0; j < pairs_.size(); ++j) {
            const auto [xi, yi] = pairs_[i];
            const auto [xj, yj] = pairs_[j];
            Complex product(m(xi, xj) + m(yi, yj), m(yi, xj) - m(xi, yj));  // E[z_i conj(z_j)]
            Complex square(m(xi, xj) - m(yi, yj), m(xi, yj) + m(yi, xj));   // E[z_i z_j]
            product *= mean_turn(angles_[i] - angles_[j], begin, end);
            square *= mean_turn(angles_[i] + angles_[j], begin, end);
            out(xi, xj) = (product.real() + square.real()) / 2;
            out(yi, yj) = (product.real() - square.real()) / 2;
            out(xi, yj) = (square.imag() - product.imag()) / 2;
            out(yi, xj) = (square.imag() + product.imag()) / 2;
        }
    }
    return out;
}

}  // namespace winnow
