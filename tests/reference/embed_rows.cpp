// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/embed_rows.h"

#include <cmath>
#include <limits>

namespace winnow::reference {

Values embed_rows(const Matrix& table, std::uint32_t first_row, std::span<const std::uint32_t> tokens, double scale) {
    Values x;
    for (const std::uint32_t token : tokens) {
        const bool here = token >= first_row && token - first_row < table.n_rows;
        for (std::size_t i = 0; i < table.n_in; ++i) {
            const std::size_t at = here ? (token - first_row) * table.n_in + i : 0;
            x.values.push_back(here ? scale * table.values[at] : std::numeric_limits<double>::quiet_NaN());
            x.terms.push_back(here ? std::abs(scale) * table.magnitudes[at] : 0);
        }
    }
    return x;
}

}  // namespace winnow::reference
