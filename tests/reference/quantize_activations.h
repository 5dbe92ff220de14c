// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace winnow::reference {

/// A quantised activation vector, decoded: shaders/common/activations.glsl has the format. nb = n / 32 blocks.
struct Activations {
    std::vector<double> values;   ///< [n] scale * (128 * high + low): what kernels multiply weights with
    std::vector<int> high, low;   ///< [n]
    std::vector<double> scales;   ///< [nb]
    std::vector<double> sums_a;   ///< [nb] of values 0-15, as stored
    std::vector<double> sums_b;   ///< [nb] of values 16-31
    std::vector<double> squares;  ///< [nb] sum of squares before the norm's weight

    double sum_of_squares() const;
    /// 1 / rms of the vector before the norm's weight.
    double inverse_rms(double eps) const;
};

/// The words that a kernel stores for `values` [n], n a multiple of 32; `squares` [n] are added up per block.
std::vector<std::uint32_t> quantize_activations(std::span<const float> values, std::span<const float> squares);

Activations dequantize_activations(std::span<const std::uint32_t> words);

}  // namespace winnow::reference
