// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <Eigen/Core>
#include <cstdint>
#include <utility>
#include <vector>

#include "winnow/types.h"

namespace winnow {

/// RoPE of a layer as it acts on one head: pairs of dimensions and the angle by which each turns per position; 0 =
/// stays.
class RopeSpace {
public:
    RopeSpace(const ModelShape& shape, const LayerShape& layer);

    std::size_t n_pairs() const { return pairs_.size(); }
    std::pair<std::uint32_t, std::uint32_t> pair(std::size_t i) const { return pairs_[i]; }

    /// Turns each row x [n, head_dim] back from (sign -1) or to (sign +1) position first + row.
    void rotate(Eigen::Ref<Eigen::MatrixXf> x, std::uint32_t first, int sign) const;
    /// To positions of their own.
    void rotate(Eigen::Ref<Eigen::MatrixXf> x, const std::vector<std::uint32_t>& positions, int sign) const;

    /// Mean and second moment E[x x^T] of vectors that stand with equal chance at the positions [begin, end), from
    /// those at position 0: exact, without any vector. In pair form z = x + iy, E[z_i conj(z_j)] is multiplied by the
    /// mean of exp(i n (t_i - t_j)), E[z_i z_j] by that of exp(i n (t_i + t_j)), E[z_i] by that of exp(i n t_i).
    Eigen::VectorXd spread_mean(const Eigen::VectorXd& mean, std::uint32_t begin, std::uint32_t end) const;
    Eigen::MatrixXd spread_second(const Eigen::MatrixXd& second, std::uint32_t begin, std::uint32_t end) const;

private:
    std::vector<std::pair<std::uint32_t, std::uint32_t>> pairs_;
    std::vector<double> angles_;
};

}  // namespace winnow
