// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>

#include "tests/reference/matvec.h"

namespace winnow::reference {

/// RMS norm of each row of `input` [n_tokens, n] times weight [n].
Values norm_rows(std::span<const float> input, std::span<const float> weight, double eps);

}  // namespace winnow::reference
