// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/embed.h"

#include <cmath>

namespace winnow::reference {

Residual embed(const Matrix& table, std::size_t token, double scale, const std::vector<double>& norm) {
    Residual out;
    for (std::size_t c = 0; c < table.n_in; ++c) {
        const std::size_t at = token * table.n_in + c;
        add_residual(out, scale * table.values[at], std::abs(scale) * table.magnitudes[at], norm[c]);
    }
    return out;
}

}  // namespace winnow::reference
