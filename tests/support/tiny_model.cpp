// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tiny_model.h"

#include <cmath>
#include <cstring>
#include <deque>
#include <utility>

#include "tests/support/random.h"
#include "tests/support/random_weights.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kVocab = 320;

ModelShape make_shape(Flavour flavour) {
    ModelShape s;
    s.architecture = flavour == Flavour::kGemma3 ? "gemma3" : "llama";
    s.n_layers = 3;
    s.n_embd = 64;
    s.n_ff = 256;
    s.n_heads = 4;
    s.n_kv_heads = 2;
    s.head_dim = s.n_rot = 32;
    s.n_vocab = kVocab;
    s.n_ctx_train = 4096;
    s.attention_scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    s.layers.resize(s.n_layers);
    if (flavour == Flavour::kLlama) {
        for (std::uint32_t i = 0; i < s.n_rot / 2; ++i) s.rope_freq_divisors.push_back(i < 8 ? 1.0f : 8.0f);
    } else {
        s.rope_pairing = RopePairing::kNeox;
    }
    s.qkv_bias = flavour == Flavour::kQwen2;
    if (flavour == Flavour::kGemma3) {
        s.embedding_scale = 2.5f;  // less than the real sqrt(n_embd): a tied output would only repeat the last token
        s.activation = Activation::kGeluTanh;
        s.qk_norm = s.post_norms = true;
        for (const std::uint32_t local : {0u, 2u}) s.layers[local].window = 16;
        s.layers[1].rope_freq_base = 1000000;
        s.layers[1].rope_freq_scale = 0.125f;
    }
    return s;
}

}  // namespace

struct TinyModel::Storage {
    std::deque<std::vector<std::byte>> bytes;
    std::deque<std::string> names;
    std::deque<GgufTensor> tensors;
    ReplicableRng rng;

    const GgufTensor* add(std::string name, WeightType type, std::vector<std::uint64_t> dims,
                          std::vector<std::byte> data) {
        bytes.push_back(std::move(data));
        names.push_back(std::move(name));
        tensors.push_back({names.back(), type, std::move(dims), bytes.back()});
        return &tensors.back();
    }
    const GgufTensor* matrix(const std::string& name, WeightType type, std::uint64_t n_in, std::uint64_t n_rows,
                             reference::Matrix& to) {
        std::vector<std::byte> data = random_blocks(type, n_rows, n_in, rng);
        to = reference::dequantize(type, data, n_rows, n_in);
        return add(name, type, {n_in, n_rows}, std::move(data));
    }
    const GgufTensor* vector(const std::string& name, std::uint64_t n, float mean, float deviation,
                             std::vector<double>& to) {
        const std::vector<float> values = rng.normals(n, mean, deviation);
        std::vector<std::byte> data(n * sizeof(float));
        std::memcpy(data.data(), values.data(), data.size());
        to.assign(values.begin(), values.end());
        return add(name, WeightType::kF32, {n}, std::move(data));
    }
};

TinyModel::TinyModel(Flavour flavour, std::uint64_t stream, WeightType table, WeightType query)
    : storage_(std::make_shared<Storage>()) {
    Storage& store = *storage_;
    store.rng = ReplicableRng(stream + 17);
    reference_.shape = make_shape(flavour);
    const ModelShape& s = reference_.shape;
    tensors_.token_embd = store.matrix("token_embd", table, s.n_embd, s.n_vocab, reference_.table);
    tensors_.output_norm = store.vector("output_norm", s.n_embd, 1, 0.2f, reference_.output_norm);
    if (flavour == Flavour::kGemma3) {
        tensors_.output = tensors_.token_embd;
        reference_.output = reference_.table;
    } else {
        tensors_.output = store.matrix("output", WeightType::kQ5_0, s.n_embd, s.n_vocab, reference_.output);
    }
    for (std::uint32_t i = 0; i < s.n_layers; ++i) {
        LayerTensors t;
        reference::ForwardLayer r;
        const auto norm = [&](const char* name, std::uint64_t n, std::vector<double>& to) {
            return store.vector(name, n, 1, 0.2f, to);
        };
        t.attn_norm = norm("attn_norm", s.n_embd, r.attn_norm);
        t.ffn_norm = norm("ffn_norm", s.n_embd, r.ffn_norm);
        // Layers differ in one type, so that there are two stages of some kinds.
        t.attn_q = store.matrix("attn_q", i == 1 ? WeightType::kQ5_1 : query, s.n_embd, s.q_dim(), r.q);
        t.attn_k = store.matrix("attn_k", WeightType::kQ8_0, s.n_embd, s.kv_dim(), r.k);
        t.attn_v = store.matrix("attn_v", WeightType::kF16, s.n_embd, s.kv_dim(), r.v);
        t.attn_output = store.matrix("attn_output", WeightType::kQ4_1, s.q_dim(), s.n_embd, r.output);
        t.ffn_gate = store.matrix("ffn_gate", WeightType::kBF16, s.n_embd, s.n_ff, r.gate);
        t.ffn_up = store.matrix("ffn_up", WeightType::kF32, s.n_embd, s.n_ff, r.up);
        t.ffn_down = store.matrix("ffn_down", i == 1 ? WeightType::kQ6_K : WeightType::kQ4_K, s.n_ff, s.n_embd, r.down);
        if (s.qk_norm) {
            t.attn_q_norm = norm("attn_q_norm", s.head_dim, r.q_norm);
            t.attn_k_norm = norm("attn_k_norm", s.head_dim, r.k_norm);
        }
        if (s.post_norms) {
            t.post_attention_norm = norm("post_attention_norm", s.n_embd, r.post_attn_norm);
            t.post_ffw_norm = norm("post_ffw_norm", s.n_embd, r.post_ffn_norm);
        }
        if (s.qkv_bias) {
            t.attn_q_bias = store.vector("attn_q_bias", s.q_dim(), 0, 1, r.q_bias);
            t.attn_k_bias = store.vector("attn_k_bias", s.kv_dim(), 0, 1, r.k_bias);
            t.attn_v_bias = store.vector("attn_v_bias", s.kv_dim(), 0, 1, r.v_bias);
        }
        tensors_.layers.push_back(t);
        reference_.layers.push_back(std::move(r));
    }
}

ModelSource TinyModel::source() const {
    ModelSource source;
    source.shape = reference_.shape;
    source.tensors = tensors_;
    source.owned = storage_;
    return source;
}

std::string flavour_name(Flavour flavour) {
    switch (flavour) {
        case Flavour::kLlama: return "llama";
        case Flavour::kQwen2: return "qwen2";
        case Flavour::kGemma3: return "gemma3";
    }
    return "";
}

std::vector<std::int32_t> random_tokens(std::size_t n, std::uint64_t stream) {
    ReplicableRng rng(1000 + stream);
    std::vector<std::int32_t> tokens;
    for (std::size_t i = 0; i < n; ++i) tokens.push_back(static_cast<std::int32_t>(rng.integer(0, kVocab - 1)));
    return tokens;
}

}  // namespace winnow::test
