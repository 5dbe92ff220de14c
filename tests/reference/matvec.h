// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "tests/reference/dequantize.h"
#include "tests/reference/quantize_activations.h"

namespace winnow::reference {

/// Results with what their rounding errors are in proportion to: each `terms` is the sum of the magnitudes that a
/// kernel adds up on the way to the value, or their propagation through what follows, to first order.
struct Values {
    std::vector<double> values;
    std::vector<double> terms;
};

/// values[r] = sum over c of w[r, c] a[c].
Values matvec(const Matrix& w, const Activations& a);

/// The residual stream after a stage and the next norm's input before it is quantised.
struct Residual {
    Values x;       ///< [n]
    Values normed;  ///< [n] x times the norm's weight
};

/// Appends x with its terms and x * weight.
void add_residual(Residual& residual, double x, double terms, double weight);

}  // namespace winnow::reference
