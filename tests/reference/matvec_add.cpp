// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/matvec_add.h"

#include <cmath>

namespace winnow::reference {

Residual matvec_add(const Matrix& w, const Activations& a, const std::vector<double>& x,
                    const std::vector<double>& next_norm, const std::vector<double>& post_norm, double eps) {
    Values product = matvec(w, a);
    if (!post_norm.empty()) {
        double squares = 0, squared_terms = 0;
        for (std::size_t r = 0; r < w.n_rows; ++r) {
            squares += product.values[r] * product.values[r];
            squared_terms += product.terms[r] * product.terms[r];
        }
        const double inverse_rms = 1 / std::sqrt(squares / static_cast<double>(w.n_rows) + eps);
        // By Cauchy and Schwarz the rms moves by no more, relatively, than the vector's length.
        const double rms_terms = std::sqrt(squared_terms / squares);
        for (std::size_t r = 0; r < w.n_rows; ++r) {
            const double factor = inverse_rms * post_norm[r];
            product.terms[r] = std::abs(factor) * (product.terms[r] + rms_terms * std::abs(product.values[r]));
            product.values[r] *= factor;
        }
    }
    Residual out;
    for (std::size_t r = 0; r < w.n_rows; ++r)
        add_residual(out, x[r] + product.values[r], std::abs(x[r]) + product.terms[r], next_norm[r]);
    return out;
}

}  // namespace winnow::reference
