// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "tests/reference/matvec.h"

namespace winnow::reference {

/// x + W a, and the same times the next norm's weight; with `post_norm` [n_out] not empty x + RMSNorm(W a) * post_norm.
Residual matvec_add(const Matrix& w, const Activations& a, const std::vector<double>& x,
                    const std::vector<double>& next_norm, const std::vector<double>& post_norm, double eps);

}  // namespace winnow::reference
