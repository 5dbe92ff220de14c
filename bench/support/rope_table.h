// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cmath>
#include <vector>

#include "bench/support/check.h"

namespace winnow::bench {

/// The cosines and sines of RoPE as shaders/dense/qkv.comp reads them, for heads that are rotated whole and positions
/// below n_positions.
struct RopeTable {
    RopeTable(std::uint32_t head_dim, std::uint32_t n_positions) {
        for (std::uint32_t i = 0; i < head_dim / 2; ++i) frequencies.push_back(std::pow(500000.0, -2.0 * i / head_dim));
        std::vector<float> table;
        for (std::uint32_t digit = 0; digit < 256 + n_positions / 256 + 1; ++digit)
            for (const double frequency : frequencies) {
                const double angle = (digit < 256 ? digit : 256.0 * (digit - 256)) * frequency;
                table.push_back(static_cast<float>(std::cos(angle)));
                table.push_back(static_cast<float>(std::sin(angle)));
            }
        buffer = f32_buffer(table);
    }
    std::vector<double> frequencies;  ///< [head_dim / 2] radians per token
    vk::Buffer buffer;
};

}  // namespace winnow::bench
