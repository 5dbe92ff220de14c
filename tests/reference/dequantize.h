// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "winnow/types.h"

namespace winnow::reference {

/// A weight matrix as plain numbers, row by row.
struct Matrix {
    std::size_t n_rows = 0;
    std::size_t n_in = 0;
    std::vector<double> values;  ///< [n_rows, n_in]
    /// [n_rows, n_in]: |scale * code| + |offset|, the numbers that a kernel which works on the codes adds up; its
    /// rounding errors are in proportion to these, not to the values, in which code and offset may cancel.
    std::vector<double> magnitudes;
};

/// Values of GGUF's blocks (little-endian), straight from the formats' definitions; exact.
Matrix dequantize(WeightType type, std::span<const std::byte> blocks, std::size_t n_rows, std::size_t n_in);

double half_to_double(std::uint16_t bits);

}  // namespace winnow::reference
