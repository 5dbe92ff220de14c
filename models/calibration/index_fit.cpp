// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/index_fit.h"

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <algorithm>
#include <numeric>

namespace winnow {
namespace {

struct Roots {
    Eigen::MatrixXd root, inverse;
};

// Symmetric square root and its inverse; eigenvalues below a share of the largest are raised to it.
Roots roots_of(const Eigen::MatrixXd& m) {
    constexpr double kLeast = 1e-5;
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver((m + m.transpose()) / 2);
    const double least = std::max(solver.eigenvalues().maxCoeff() * kLeast, 1e-20);
    const Eigen::VectorXd root = solver.eigenvalues().cwiseMax(least).cwiseSqrt();
    const Eigen::MatrixXd& v = solver.eigenvectors();
    return {v * root.asDiagonal() * v.transpose(), v * root.cwiseInverse().asDiagonal() * v.transpose()};
}

}  // namespace

IndexFit fit_index(const IndexMoments& moments, std::uint32_t index_dim) {
    const Roots q = roots_of(moments.query), k = roots_of(moments.key);
    const Eigen::BDCSVD<Eigen::MatrixXd> svd(q.root * k.root, Eigen::ComputeFullU | Eigen::ComputeFullV);
    const Eigen::VectorXd& s = svd.singularValues();
    const Eigen::VectorXd root = s.head(index_dim).cwiseSqrt();
    IndexFit fit;
    fit.a = (root.asDiagonal() * svd.matrixU().leftCols(index_dim).transpose() * q.inverse).cast<float>();
    fit.b = (root.asDiagonal() * svd.matrixV().leftCols(index_dim).transpose() * k.inverse).cast<float>();
    fit.residual = s.tail(s.size() - index_dim).squaredNorm() / std::max(s.squaredNorm(), 1e-300);
    return fit;
}

std::vector<std::uint32_t> best_pair_dims(const IndexMoments& m, const RopeSpace& rope, std::uint32_t index_dim) {
    std::vector<double> energy;
    for (std::size_t i = 0; i < rope.n_pairs(); ++i) {
        const auto [x, y] = rope.pair(i);
        energy.push_back(m.query(x, x) * m.key(x, x) + 2 * m.query(x, y) * m.key(x, y) + m.query(y, y) * m.key(y, y));
    }
    std::vector<std::uint32_t> order(energy.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return energy[a] > energy[b]; });
    std::vector<std::uint32_t> dims;
    for (std::uint32_t i = 0; i < index_dim / 2; ++i) {
        dims.push_back(rope.pair(order[i]).first);
        dims.push_back(rope.pair(order[i]).second);
    }
    return dims;
}

IndexFit pair_fit(const std::vector<std::uint32_t>& dims, std::uint32_t head_dim) {
    IndexFit fit;
    fit.a.setZero(static_cast<Eigen::Index>(dims.size()), head_dim);
    for (std::size_t r = 0; r < dims.size(); ++r) fit.a(static_cast<Eigen::Index>(r), dims[r]) = 1;
    fit.b = fit.a;
    return fit;
}

}  // namespace winnow
