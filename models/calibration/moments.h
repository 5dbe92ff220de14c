// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <Eigen/Core>
#include <cstdint>

#include "models/calibration/rope_space.h"

namespace winnow {

/// Sums of queries and keys of one kv head before RoPE, from which every projection is computed.
struct Moments {
    Eigen::MatrixXd query;     ///< sum of q q^T over tokens and the query heads of the group; not centred
    Eigen::MatrixXd key;       ///< sum of k k^T
    Eigen::VectorXd key_mean;  ///< sum of k
    double n_queries = 0, n_keys = 0;
    Eigen::MatrixXf some_keys;  ///< where asked for, every second key: moments do not tell how they are spread

    void add_queries(const Eigen::Ref<const Eigen::MatrixXf>& rows);
    void add_keys(const Eigen::Ref<const Eigen::MatrixXf>& rows);
    /// Averages of both, weighed: (1 - share) of this and share of the other.
    Moments mixed_with(const Moments& other, double share) const;
};

/// What the index is fitted to, after RoPE: the second moment of queries and the covariance of keys.
struct IndexMoments {
    Eigen::MatrixXd query, key;
};

/// Moments as a context of `n_ctx` tokens shows them: keys rotated analytically to every position of it, queries to its
/// second half.
IndexMoments spread_moments(const Moments& moments, const RopeSpace& rope, std::uint32_t n_ctx);
/// The mean over contexts of n_ctx, half of it, a quarter ... down to 2048 tokens. An index that is fitted to one
/// length alone is far worse at half and at twice of it.
IndexMoments spread_moments_up_to(const Moments& moments, const RopeSpace& rope, std::uint32_t n_ctx);
/// some_keys as such contexts show them, each at `n_places` positions spread over them.
Eigen::MatrixXf spread_keys_up_to(const Moments& moments, const RopeSpace& rope, std::uint32_t n_ctx,
                                  std::uint32_t n_places);

}  // namespace winnow
