// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace winnow {

/// Storage type of a tensor. Values are GGUF's ids: DO NOT CHANGE them, files hold them.
enum class WeightType : std::uint32_t {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kBF16 = 30,
};

/// Storage type of keys and values in the cache; the quantised ones have one f16 scale for 32 dimensions of a token.
/// Values are the shaders' and GGUF's.
enum class KvType : std::uint32_t { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ8_0 = 8 };

/// How index keys are stored: halves, or signed bytes with a scale per token. Values are the shaders'.
enum class IndexType : std::uint32_t { kF16 = 0, kInt8 = 1 };

/// Which dimensions RoPE rotates together: (i, i+1) or (i, i + n_rot/2).
enum class RopePairing : std::uint32_t { kNorm = 0, kNeox = 1 };

/// Non-linearity of the gated MLP.
enum class Activation : std::uint32_t { kSilu = 0, kGeluTanh = 1 };

/// What differs from layer to layer.
struct LayerShape {
    std::uint32_t window = 0;      ///< tokens a query sees, itself included; 0 = all
    float rope_freq_base = 10000;  ///< RoPE base of this layer
    float rope_freq_scale = 1;     ///< positions are multiplied by this (1 / linear factor)
};

/// Everything about a model that decides buffers and dispatches; no weights, no names.
struct ModelShape {
    std::string architecture;  ///< GGUF's general.architecture
    std::uint32_t n_layers = 0;
    std::uint32_t n_embd = 0;
    std::uint32_t n_ff = 0;
    std::uint32_t n_heads = 0;
    std::uint32_t n_kv_heads = 0;
    std::uint32_t head_dim = 0;
    std::uint32_t n_rot = 0;  ///< leading dimensions of a head that RoPE rotates
    std::uint32_t n_vocab = 0;
    std::uint32_t n_ctx_train = 0;
    float rms_eps = 1e-5f;
    float embedding_scale = 1;  ///< multiplies the embedding row (Gemma: sqrt(n_embd))
    float attention_scale = 0;  ///< softmax scale; 1/sqrt(head_dim) unless the model says otherwise
    RopePairing rope_pairing = RopePairing::kNorm;
    std::vector<float> rope_freq_divisors;  ///< [n_rot/2] divisors of each frequency, or empty
    Activation activation = Activation::kSilu;
    bool qk_norm = false;     ///< RMS norm of each query and key head before RoPE
    bool qkv_bias = false;    ///< projections Q, K, V add a bias
    bool post_norms = false;  ///< RMS norm of each branch before its residual add (Gemma 3)
    std::vector<LayerShape> layers;

    std::uint32_t n_group() const { return n_heads / n_kv_heads; }
    std::uint32_t q_dim() const { return n_heads * head_dim; }
    std::uint32_t kv_dim() const { return n_kv_heads * head_dim; }
};

/// How the next token is drawn. Filters apply in this order:
/// repetition penalty, top-k, top-p, min-p, temperature.
struct SamplingOptions {
    float temperature = 0.8f;     ///< 0 = greedy
    std::uint32_t top_k = 40;     ///< 0 = off
    float top_p = 0.95f;          ///< sampling top-p (not attention mass); 1 = off
    float min_p = 0.05f;          ///< keep p >= min_p * p_max; 0 = off
    float repeat_penalty = 1.0f;  ///< 1 = off
    std::uint32_t repeat_last_n = 64;
    std::uint64_t seed = 0;
};

}  // namespace winnow
