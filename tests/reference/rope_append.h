// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tests/reference/matvec.h"
#include "winnow/types.h"

namespace winnow::reference {

struct RopeAppendInput {
    std::size_t n_heads = 0, n_kv_heads = 0, head_dim = 0, n_rot = 0;
    RopePairing pairing = RopePairing::kNorm;
    std::span<const float> projections;     ///< [n_tokens, n_heads + 2 n_kv_heads, head_dim]
    std::span<const float> q_norm, k_norm;  ///< [head_dim], or empty
    std::span<const float> bias;            ///< [n_heads + 2 n_kv_heads, head_dim], or empty
    std::span<const double> frequencies;    ///< [n_rot / 2] radians per token
    std::uint32_t position = 0;             ///< of the first token
    double eps = 0;
    double scale = 1;  ///< of the query
};

struct RopeAppendOutput {
    Values query;         ///< [n_tokens, n_heads, head_dim]
    Values keys, values;  ///< [n_tokens, n_kv_heads, head_dim]
};

/// Bias, RMS norm and rotation of each head as it applies to it. Terms: the sum of the magnitudes that make a value.
RopeAppendOutput rope_append(const RopeAppendInput& in);

}  // namespace winnow::reference
