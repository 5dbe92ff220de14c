// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <Eigen/Core>
#include <cstdint>
#include <vector>

#include "models/calibration/attention_rows.h"
#include "winnow/sparse.h"

namespace winnow {

/// Codes of the index keys of one kv head (IndexCodes).
struct CodeFit {
    std::vector<std::uint8_t> bits;  ///< [index_dim]
    std::vector<float> curves;       ///< [index_dim, kCodeTerms]
};

/// Curves with the least squared error over the samples (Lloyd's rounds, with values on a cubic), and bits given one by
/// one to the dimension whose error in the scores they lessen most, while the word that has its code has room.
/// @param samples index keys [n, index_dim]. @param weights second moment of the index query, by dimension.
CodeFit fit_codes(const Rows& samples, const Eigen::VectorXd& weights);

/// What the codes of a head say of its keys [n, index_dim].
Rows coded_keys(const Rows& keys, const std::uint8_t* bits, const float* curves);

}  // namespace winnow
