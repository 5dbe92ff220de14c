// SPDX-License-Identifier: Apache-2.0
#include "models/llama.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "runtime/io/safe_path.h"

namespace winnow {

ModelShape read_llama_shape(const GgufFile& file) {
    const ConfigReader config(file, "llama");
    ModelShape s = read_common_shape(config);
    s.rope_pairing = RopePairing::kNorm;
    const float scale = read_linear_rope_scale(config);
    for (LayerShape& layer : s.layers) layer.rope_freq_scale = scale;
    s.qkv_bias = file.find("blk.0.attn_q.bias") != nullptr;
    config.refuse_unless_zero("expert_count");
    config.refuse_unless_zero("attn_logit_softcapping");
    config.refuse_unless_zero("final_logit_softcapping");
    if (file.find("rope_freqs.weight") != nullptr) {  // Llama 3's scaling, baked in as divisors
        const GgufTensor* divisors = TensorFinder(file).vector("rope_freqs.weight", s.n_rot / 2);
        const auto refuse = [&](const std::string& what) {
            throw Error(ErrorCode::kBadFile,
                        fmt::format("'{}': rope_freqs.weight {}; download it again or choose another model",
                                    safe_path(file.path()), what));
        };
        if (divisors->type != WeightType::kF32) refuse(fmt::format("is {}, expected F32", type_name(divisors->type)));
        s.rope_freq_divisors.resize(s.n_rot / 2);
        std::memcpy(s.rope_freq_divisors.data(), divisors->bytes.data(), divisors->bytes.size());
        for (const float d : s.rope_freq_divisors)
            if (!std::isfinite(d) || d <= 0) refuse(fmt::format("holds {}", d));
    }
    return s;
}

ModelTensors read_llama_tensors(const GgufFile& file, const ModelShape& s) {
    ModelTensors tensors = read_common_tensors(file, s);
    if (!s.qkv_bias) return tensors;
    const TensorFinder find(file);
    for (std::uint32_t i = 0; i < s.n_layers; ++i) {
        LayerTensors& l = tensors.layers[i];
        const std::string blk = fmt::format("blk.{}.", i);
        l.attn_q_bias = find.vector(blk + "attn_q.bias", s.q_dim());
        l.attn_k_bias = find.vector(blk + "attn_k.bias", s.kv_dim());
        l.attn_v_bias = find.vector(blk + "attn_v.bias", s.kv_dim());
    }
    return tensors;
}

}  // namespace winnow
