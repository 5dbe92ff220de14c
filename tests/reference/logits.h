// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "tests/reference/matvec.h"

namespace winnow::reference {

/// W a / rms, with the rms that the producer of `a` left in it.
Values logits(const Matrix& w, const Activations& a, double eps);

/// In place of a logit that is NaN or plus infinity: larger than any other.
constexpr float kNotFinite = 3.3e38f;

/// The largest logit of each group of rows_per_group, the last group being shorter perhaps.
std::vector<float> group_maxima(const std::vector<float>& logits, std::size_t rows_per_group);

}  // namespace winnow::reference
