// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>

#include "tests/reference/matvec.h"

namespace winnow::reference {

/// out[t, r] = sum over c of w[r, c] rows[t, c]: `rows` [n_tokens, n_in] gives [n_tokens, n_rows].
Values matmul(const Matrix& w, std::span<const float> rows);

}  // namespace winnow::reference
