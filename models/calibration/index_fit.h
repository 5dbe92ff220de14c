// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <Eigen/Core>
#include <cstdint>
#include <vector>

#include "models/calibration/moments.h"

namespace winnow {

/// A projection of queries and one of keys, [index_dim, head_dim] each: (A q) . (B k) predicts q . k.
struct IndexFit {
    Eigen::MatrixXf a, b;
    double residual = 0;  ///< share of the scores' variance that it leaves unexplained
};

/// The pair that minimises E |q . (k - mean) - (A q) . B (k - mean)|^2 for independent q and k: with M = Q^1/2 K^1/2 =
/// U S V^T, A = S_r^1/2 U_r^T Q^-1/2 and B = S_r^1/2 V_r^T K^-1/2 (Eckart and Young).
IndexFit fit_index(const IndexMoments& moments, std::uint32_t index_dim);

/// Dimensions of the RoPE pairs whose scores vary most, best pair first: the index of FASA, exact in what it keeps.
std::vector<std::uint32_t> best_pair_dims(const IndexMoments& moments, const RopeSpace& rope, std::uint32_t index_dim);
/// The same as projections.
IndexFit pair_fit(const std::vector<std::uint32_t>& dims, std::uint32_t head_dim);

}  // namespace winnow
