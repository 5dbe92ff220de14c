// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "tests/reference/matvec.h"
#include "winnow/types.h"

namespace winnow::reference {

struct GatedProduct {
    Values product;                  ///< [n_ff]; terms are those of the two inner products
    std::vector<double> gate_terms;  ///< [n_ff] roundings of the non-linearity itself, in units of a rounding
};

/// act(Wg a / rms) * (Wu a / rms), with the rms that the producer of `a` left in it.
GatedProduct gate_up(const Matrix& gate, const Matrix& up, const Activations& a, Activation activation, double eps);

}  // namespace winnow::reference
