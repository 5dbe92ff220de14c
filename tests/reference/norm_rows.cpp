// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/norm_rows.h"

#include <cmath>

namespace winnow::reference {

Values norm_rows(std::span<const float> input, std::span<const float> weight, double eps) {
    const std::size_t n = weight.size();
    Values out;
    for (std::size_t row = 0; row < input.size(); row += n) {
        double squares = 0;
        for (const float x : input.subspan(row, n)) squares += double{x} * double{x};
        const double rms = std::sqrt(squares / static_cast<double>(n) + eps);
        for (std::size_t i = 0; i < n; ++i) {
            out.values.push_back(double{input[row + i]} / rms * double{weight[i]});
            out.terms.push_back(std::abs(out.values.back()));
        }
    }
    return out;
}

}  // namespace winnow::reference
