// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "tests/reference/matvec.h"

namespace winnow::reference {

/// Row `token` of the embedding table times `scale`, and the same times the first norm's weight [n_embd].
Residual embed(const Matrix& table, std::size_t token, double scale, const std::vector<double>& norm);

}  // namespace winnow::reference
