// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/matvec.h"

#include <cmath>

namespace winnow::reference {

Values matvec(const Matrix& w, const Activations& a) {
    Values out{std::vector<double>(w.n_rows, 0.0), std::vector<double>(w.n_rows, 0.0)};
    for (std::size_t r = 0; r < w.n_rows; ++r) {
        for (std::size_t c = 0; c < w.n_in; ++c) {
            out.values[r] += w.values[r * w.n_in + c] * a.values[c];
            out.terms[r] += w.magnitudes[r * w.n_in + c] * std::abs(a.values[c]);
        }
    }
    return out;
}

void add_residual(Residual& residual, double x, double terms, double weight) {
    residual.x.values.push_back(x);
    residual.x.terms.push_back(terms);
    residual.normed.values.push_back(x * weight);
    residual.normed.terms.push_back(terms * std::abs(weight));
}

}  // namespace winnow::reference
