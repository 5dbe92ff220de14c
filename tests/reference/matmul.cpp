// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/matmul.h"

#include <cmath>

namespace winnow::reference {

Values matmul(const Matrix& w, std::span<const float> rows) {
    Values out;
    for (std::size_t token = 0; token < rows.size() / w.n_in; ++token) {
        const auto a = rows.subspan(token * w.n_in, w.n_in);
        for (std::size_t r = 0; r < w.n_rows; ++r) {
            double sum = 0, terms = 0;
            for (std::size_t c = 0; c < w.n_in; ++c) {
                sum += w.values[r * w.n_in + c] * double{a[c]};
                terms += w.magnitudes[r * w.n_in + c] * std::abs(double{a[c]});
            }
            out.values.push_back(sum);
            out.terms.push_back(terms);
        }
    }
    return out;
}

}  // namespace winnow::reference
