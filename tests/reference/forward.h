// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tests/reference/dequantize.h"
#include "winnow/types.h"

namespace winnow::reference {

struct ForwardLayer {
    std::vector<double> attn_norm, ffn_norm;
    std::vector<double> post_attn_norm, post_ffn_norm;  ///< with ModelShape::post_norms
    std::vector<double> q_norm, k_norm;                 ///< with qk_norm
    std::vector<double> q_bias, k_bias, v_bias;         ///< with qkv_bias
    Matrix q, k, v, output, gate, up, down;
};

struct ForwardModel {
    ModelShape shape;
    Matrix table, output;
    std::vector<double> output_norm;
    std::vector<ForwardLayer> layers;
};

/// The whole model in double, every layer over all tokens at once, with the full history in reach: logits [n, n_vocab].
std::vector<double> forward(const ForwardModel& model, std::span<const std::int32_t> tokens);

}  // namespace winnow::reference
