// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "tests/reference/matvec.h"
#include "winnow/types.h"

namespace winnow::reference {

struct QkvInput {
    const Matrix &q, &k, &v;  ///< [n_heads * head_dim, n_embd], [n_kv_heads * head_dim, n_embd] twice
    const Activations& a;
    std::size_t head_dim = 0;
    std::size_t n_rot = 0;
    RopePairing pairing = RopePairing::kNorm;
    std::vector<double> q_norm, k_norm;  ///< [head_dim], or empty
    std::vector<double> bias;            ///< of the rows of Q, K and V in turn, or empty
    std::vector<double> frequencies;     ///< [n_rot / 2] radians per token
    double eps = 0;
    double scale = 1;  ///< of the query
};

struct QkvOutput {
    Values query, keys, values;  ///< of one token: [n_heads, head_dim], [n_kv_heads, head_dim] twice
};

/// RMS norm, projections, bias, RMS norm of each query and key head, RoPE, for the token at `position`.
QkvOutput qkv(const QkvInput& in, std::uint32_t position);

}  // namespace winnow::reference
