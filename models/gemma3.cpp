// SPDX-License-Identifier: Apache-2.0
#include "models/gemma3.h"

#include <fmt/format.h>

#include <cmath>

namespace winnow {
namespace {
constexpr std::uint32_t kPattern = 6;       // every sixth layer is global
constexpr std::uint32_t kLayersOf27B = 62;  // whose query scale follows n_embd instead of head_dim
}  // namespace

ModelShape read_gemma3_shape(const GgufFile& file) {
    const ConfigReader config(file, "gemma3");
    ModelShape s = read_common_shape(config);
    s.rope_pairing = RopePairing::kNeox;
    s.activation = Activation::kGeluTanh;
    s.qk_norm = true;
    s.post_norms = true;
    s.embedding_scale = std::sqrt(static_cast<float>(s.n_embd));
    if (s.n_layers == kLayersOf27B)
        s.attention_scale = 1.0f / std::sqrt(static_cast<float>(s.n_embd) / static_cast<float>(s.n_heads));
    config.refuse_unless_zero("attn_logit_softcapping");
    config.refuse_unless_zero("final_logit_softcapping");
    const std::uint32_t window = config.count("attention.sliding_window", 1, 1u << 20);
    const std::uint32_t pattern = config.count_or("attention.sliding_window_pattern", kPattern, 1, 1024);
    // Windowed layers keep their own base, whatever rope.freq_base says, and are never scaled.
    const float local_base = read_rope_base(config, "rope.freq_base_swa");
    const float global_scale = read_linear_rope_scale(config);
    for (std::uint32_t i = 0; i < s.n_layers; ++i) {
        LayerShape& layer = s.layers[i];
        if (i % pattern == pattern - 1) {
            layer.rope_freq_scale = global_scale;
        } else {
            layer.window = window;
            layer.rope_freq_base = local_base;
        }
    }
    return s;
}

ModelTensors read_gemma3_tensors(const GgufFile& file, const ModelShape& s) {
    ModelTensors tensors = read_common_tensors(file, s);
    const TensorFinder find(file);
    for (std::uint32_t i = 0; i < s.n_layers; ++i) {
        LayerTensors& l = tensors.layers[i];
        const std::string blk = fmt::format("blk.{}.", i);
        l.attn_q_norm = find.vector(blk + "attn_q_norm.weight", s.head_dim);
        l.attn_k_norm = find.vector(blk + "attn_k_norm.weight", s.head_dim);
        l.post_attention_norm = find.vector(blk + "post_attention_norm.weight", s.n_embd);
        l.post_ffw_norm = find.vector(blk + "post_ffw_norm.weight", s.n_embd);
    }
    return tensors;
}

}  // namespace winnow
