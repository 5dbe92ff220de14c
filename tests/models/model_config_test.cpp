// SPDX-License-Identifier: Apache-2.0
// Tiny models with one key or tensor changed, and what becomes of their shape.
#include "models/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <set>

#include "models/gguf_writer.h"
#include "tests/support/tiny_gguf.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;

GgufFile open_bytes(const std::vector<std::byte>& bytes) {
    const auto path =
        std::filesystem::temp_directory_path() / ("winnow_config_" + std::to_string(::getpid()) + ".gguf");
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    GgufFile file = GgufFile::open(path);
    std::filesystem::remove(path);  // the mapping keeps it
    return file;
}

// A tiny model rewritten without some keys and tensors, and with others in their place or besides.
struct Change {
    std::set<std::string, std::less<>> without = {};
    std::function<void(GgufWriter&)> add = [](GgufWriter&) {};
};

GgufFile changed(const TinyOptions& options, const Change& change) {
    const GgufFile source = open_bytes(make_tiny_gguf(options));
    GgufWriter w;
    for (const auto& [key, value] : source.metadata()) {
        if (change.without.contains(key)) continue;
        if (const auto* u = std::get_if<std::uint64_t>(&value)) w.add_uint(key, static_cast<std::uint32_t>(*u));
        else if (const auto* f = std::get_if<double>(&value)) w.add_float(key, static_cast<float>(*f));
        else if (const auto* b = std::get_if<bool>(&value)) w.add_bool(key, *b);
        else if (const auto* s = std::get_if<std::string_view>(&value)) w.add_string(key, *s);
        else if (const auto& a = std::get<GgufArray>(value); !a.strings.empty())
            w.add_strings(key, {a.strings.begin(), a.strings.end()});
        // Token types and scores do not matter here.
    }
    for (const GgufTensor& t : source.tensors())
        if (!change.without.contains(t.name)) w.add_tensor(t.name, t.type, t.dims, t.bytes);
    change.add(w);
    return open_bytes(w.bytes());
}

Change replace_uint(const std::string& key, std::uint32_t value) {
    return {{key}, [=](GgufWriter& w) { w.add_uint(key, value); }};
}
Change replace_float(const std::string& key, float value) {
    return {{key}, [=](GgufWriter& w) { w.add_float(key, value); }};
}
Change replace_string(const std::string& key, const std::string& value) {
    return {{key}, [=](GgufWriter& w) { w.add_string(key, value); }};
}
Change replace_tensor(const std::string& name, WeightType type, std::vector<std::uint64_t> dims) {
    return {{name}, [=](GgufWriter& w) {
                std::uint64_t n = row_bytes(type, dims.at(0));
                for (std::size_t i = 1; i < dims.size(); ++i) n *= dims[i];
                w.add_tensor(name, type, dims, std::vector<std::byte>(n));
            }};
}

// Why the changed model is refused, "" if it is not.
std::string refusal(const TinyOptions& options, const Change& change) {
    const GgufFile file = changed(options, change);
    try {
        read_model_tensors(file, read_model_shape(file));
        return "";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kBadFile) << e.what();
        EXPECT_THAT(e.what(), HasSubstr(file.path().string()));
        return e.what();
    }
}

TinyOptions gemma(std::uint32_t n_layers = 2) {
    TinyOptions o;
    o.architecture = "gemma3";
    o.n_layers = n_layers;
    return o;
}

struct Refused {
    Change change;
    std::vector<std::string> named;  // what the message must have: key or tensor, value or dimensions
};
void expect_refused(const TinyOptions& options, const std::vector<Refused>& cases) {
    for (const Refused& c : cases)
        for (const std::string& part : c.named)
            EXPECT_THAT(refusal(options, c.change), HasSubstr(part)) << c.named.front();
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(ModelConfig, Llama) {
    const GgufFile file = open_bytes(make_tiny_gguf());
    const ModelShape s = read_model_shape(file);
    EXPECT_EQ(s.architecture, "llama");
    EXPECT_EQ(s.n_layers, 2u);
    EXPECT_EQ(s.n_group(), 2u);
    EXPECT_EQ(s.n_rot, 32u);
    EXPECT_EQ(s.n_vocab, 320u);
    EXPECT_EQ(s.rope_pairing, RopePairing::kNorm);
    EXPECT_EQ(s.activation, Activation::kSilu);
    EXPECT_FALSE(s.qk_norm || s.post_norms || s.qkv_bias);
    EXPECT_EQ(s.embedding_scale, 1.0f);
    EXPECT_FLOAT_EQ(s.attention_scale, 1.0f / std::sqrt(32.0f));
    const ModelTensors t = read_model_tensors(file, s);
    EXPECT_EQ(t.output, t.token_embd);
    EXPECT_EQ(t.layers.at(1).ffn_down->n_in(), s.n_ff);
    EXPECT_EQ(t.layers.at(1).attn_q_norm, nullptr);
    EXPECT_EQ(t.layers.at(1).attn_q_bias, nullptr);
}

TEST(ModelConfig, Gemma) {
    const GgufFile file = open_bytes(make_tiny_gguf(gemma()));
    const ModelShape s = read_model_shape(file);
    EXPECT_TRUE(s.qk_norm && s.post_norms);
    EXPECT_EQ(s.rope_pairing, RopePairing::kNeox);
    EXPECT_EQ(s.activation, Activation::kGeluTanh);
    EXPECT_EQ(s.layers.at(0).window, 16u);
    EXPECT_EQ(s.layers.at(1).window, 0u);
    EXPECT_FLOAT_EQ(s.embedding_scale, 8.0f);
    EXPECT_FLOAT_EQ(s.attention_scale, 1.0f / std::sqrt(32.0f));
    const LayerTensors l = read_model_tensors(file, s).layers.at(0);
    EXPECT_NE(l.post_ffw_norm, nullptr);
    EXPECT_NE(l.post_attention_norm, nullptr);
    EXPECT_NE(l.attn_q_norm, nullptr);
}

TEST(ModelConfig, BadLlamaValuesAreNamed) {
    expect_refused(
        {},
        {
            {replace_uint("llama.block_count", 0), {"'llama.block_count' is 0"}},
            {replace_uint("llama.block_count", 1025), {"'llama.block_count' is 1025"}},
            {replace_uint("llama.block_count", 3), {"no tensor 'blk.2.attn_norm.weight'"}},
            {replace_uint("llama.block_count", 1),
             {"tensor 'blk.1.attn_norm.weight' lies beyond the 1 layers of 'llama.block_count'", "; "}},
            {replace_string("llama.block_count", "two"), {"'llama.block_count' is not a non-negative integer"}},
            {{{"llama.block_count"}}, {"lacks the metadata key 'llama.block_count'"}},
            {replace_uint("llama.context_length", 0), {"'llama.context_length' is 0"}},
            {replace_uint("llama.embedding_length", 0), {"'llama.embedding_length' is 0"}},
            {replace_uint("llama.embedding_length", 72), {"'llama.embedding_length' is 72", "multiple of 32"}},
            {replace_uint("llama.embedding_length", 96), {"'token_embd.weight' is [64, 320], expected [96, 320]"}},
            {replace_uint("llama.feed_forward_length", 100), {"'llama.feed_forward_length' is 100", "multiple of 32"}},
            {replace_uint("llama.feed_forward_length", 128),
             {"'blk.0.ffn_gate.weight' is [64, 96], expected [64, 128]"}},
            {replace_uint("llama.attention.head_count", 0), {"'llama.attention.head_count' is 0"}},
            {replace_uint("llama.attention.head_count", 3), {"'llama.attention.head_count' is 3", "2 kv heads"}},
            {replace_uint("llama.attention.head_count_kv", 0), {"'llama.attention.head_count_kv' is 0"}},
            {replace_uint("llama.attention.head_count_kv", 4),
             {"'blk.0.attn_k.weight' is [64, 64], expected [64, 128]"}},
            {replace_uint("llama.attention.key_length", 0), {"'llama.attention.key_length' is 0"}},
            {replace_uint("llama.attention.key_length", 36), {"'llama.attention.key_length' is 36", "multiple of 8"}},
            {replace_uint("llama.attention.key_length", 264), {"'llama.attention.key_length' is 264"}},
            {replace_uint("llama.attention.key_length", 512), {"key_length' is 512, outside 8 to 256"}},
            {replace_uint("llama.attention.value_length", 64), {"'llama.attention.value_length' is 64", "32"}},
            {replace_uint("llama.rope.dimension_count", 0), {"'llama.rope.dimension_count' is 0"}},
            {replace_uint("llama.rope.dimension_count", 31), {"'llama.rope.dimension_count' is 31, which is odd"}},
            {replace_uint("llama.rope.dimension_count", 64), {"'llama.rope.dimension_count' is 64"}},
            {replace_float("llama.rope.freq_base", 0), {"'llama.rope.freq_base' is 0"}},
            {replace_float("llama.rope.freq_base", kNan), {"'llama.rope.freq_base' is nan"}},
            {replace_float("llama.rope.freq_base", kInfinity), {"'llama.rope.freq_base' is inf"}},
            {replace_float("llama.attention.layer_norm_rms_epsilon", kNan), {"rms_epsilon' is nan"}},
            {replace_float("llama.attention.layer_norm_rms_epsilon", -1), {"rms_epsilon' is -1"}},
            {replace_float("llama.attention.layer_norm_rms_epsilon", 0), {"rms_epsilon' is 0, outside"}},
            {{{"llama.attention.layer_norm_rms_epsilon"}}, {"lacks the metadata key 'llama.attention.layer_norm_rms"}},
            {replace_uint("llama.expert_count", 8), {"'llama.expert_count' is 8"}},
            {replace_float("llama.final_logit_softcapping", 30), {"'llama.final_logit_softcapping' is 30"}},
            {replace_string("llama.rope.scaling.type", "yarn"),
             {"'llama.rope.scaling.type' is 'yarn'", "none, linear"}},
            {replace_string("llama.rope.scaling.type", "\x1b[2Jlongrope\n"), {"'?[2Jlongrope?'"}},
            {replace_float("llama.rope.scaling.factor", 0.5f), {"'llama.rope.scaling.factor' is 0.5"}},
            {replace_float("llama.rope.scaling.factor", kNan), {"'llama.rope.scaling.factor' is nan"}},
            {replace_float("llama.rope.scale_linear", 0.5f), {"'llama.rope.scale_linear' is 0.5"}},
            {replace_string("llama.rope.scale_linear", "2"), {"'llama.rope.scale_linear' is not a number"}},
            {replace_uint("llama.vocab_size", 319), {"'llama.vocab_size' is 319", "320 rows"}},
            {replace_uint("llama.vocab_size", 0), {"'llama.vocab_size' is 0", "320 rows"}},
            {replace_string("general.architecture", "qwen2"), {"'qwen2' is not supported", "llama, gemma3"}},
            {{{"tokenizer.ggml.tokens"},
              [](GgufWriter& w) {
                  w.add_strings("tokenizer.ggml.tokens", {"a", "b"});
              }},
             {"'tokenizer.ggml.tokens' has 2 tokens", "320 rows"}},
        });
    // Without key_length the heads share n_embd.
    TinyOptions many;
    many.n_heads = 64;  // heads of 1
    expect_refused(many, {{{{"llama.attention.key_length"}}, {"'llama.attention.head_count' is 64", "n_embd 64"}}});
    many.n_heads = 128;  // heads of 0, whose scale would be infinite
    expect_refused(many, {{{{"llama.attention.key_length"}}, {"'llama.attention.head_count' is 128", "n_embd 64"}}});
    TinyOptions wide;
    wide.n_embd = 1024;
    wide.n_heads = 2;  // heads of 512
    expect_refused(wide, {{{{"llama.attention.key_length"}}, {"'llama.attention.head_count' is 2", "n_embd 1024"}}});
    expect_refused({}, {{{{"llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"}},
                         {"'blk.0.attn_q.weight' is [64, 128], expected [64, 64]"}}});
}

TEST(ModelConfig, BadTensorsAreNamed) {
    const auto add = [](const char* name, std::uint64_t n) { return replace_tensor(name, WeightType::kF32, {n}); };
    expect_refused(
        {},
        {
            {{{"token_embd.weight"}}, {"no tensor 'token_embd.weight'"}},
            {{{"output_norm.weight"}}, {"no tensor 'output_norm.weight'"}},
            {{{"blk.1.ffn_up.weight"}}, {"no tensor 'blk.1.ffn_up.weight'"}},
            {replace_tensor("blk.1.attn_v.weight", WeightType::kF32, {64, 8, 8}),
             {"'blk.1.attn_v.weight' is [64, 8, 8]"}},
            {replace_tensor("blk.0.ffn_down.weight", WeightType::kF32, {64, 96}), {"is [64, 96], expected [96, 64]"}},
            {replace_tensor("blk.0.attn_norm.weight", WeightType::kQ8_0, {64}), {"'blk.0.attn_norm.weight' is Q8_0"}},
            {replace_tensor("blk.0.ffn_norm.weight", WeightType::kF32, {32}),
             {"'blk.0.ffn_norm.weight' is [32], expected [64]"}},
            {replace_tensor("output.weight", WeightType::kF32, {64, 100}),
             {"'output.weight' is [64, 100], expected [64, 320]"}},
            {add("blk.0.attn_output.bias", 64), {"'blk.0.attn_output.bias' belongs to a variant"}},
            {add("blk.1.ffn_gate.bias", 96), {"'blk.1.ffn_gate.bias'"}},
            {add("blk.1.attn_k.bias", 64), {"'blk.1.attn_k.bias'"}},
            {add("blk.0.attn_q.bias", 128), {"no tensor 'blk.0.attn_k.bias'"}},
            {add("blk.0.attn_q_norm.weight", 32), {"'blk.0.attn_q_norm.weight'"}},
            {add("output.bias", 320), {"'output.bias' belongs to a variant", "; "}},
            {add("blk.0.ffn_gate_inp.weight", 64), {"'blk.0.ffn_gate_inp.weight' belongs to a variant"}},
            {add("\x1b[2Jodd\n", 32), {"'?[2Jodd?' belongs to a variant"}},
            {add("rope_freqs.weight", 8), {"'rope_freqs.weight' is [8], expected [16]"}},
            {add("rope_freqs.weight", 16), {"rope_freqs.weight holds 0", "; "}},
            {replace_tensor("rope_freqs.weight", WeightType::kF16, {16}), {"rope_freqs.weight is F16, expected F32; "}},
        });
    EXPECT_EQ(refusal({}, replace_tensor("blk.0.attn_norm.weight", WeightType::kF16, {64})), "");
    EXPECT_EQ(refusal({}, add("blk.0.attn_rot_embd", 16)), "");  // of very old files, and nothing new
    EXPECT_EQ(refusal({}, replace_uint("llama.vocab_size", 320)), "");
}

// What other recipes read and this one does not: refused unless it would change nothing.
TEST(ModelConfig, KeysOfOtherRecipesAreRefused) {
    const auto causal = [](bool value) {
        return Change{{}, [=](GgufWriter& w) { w.add_bool("llama.attention.causal", value); }};
    };
    EXPECT_THAT(refusal({}, causal(false)), HasSubstr("'llama.attention.causal' is false"));
    EXPECT_EQ(refusal({}, causal(true)), "");
    for (const char* name :
         {"attention.scale", "embedding_scale", "logit_scale", "residual_scale", "rope.scaling.attn_factor",
          "attention.temperature_scale", "attention.clamp_kqv", "attention.max_alibi_bias"}) {
        const std::string key = std::string("llama.") + name;
        EXPECT_THAT(refusal({}, replace_float(key, 0.5f)),
                    HasSubstr("'" + key + "' is 0.5, which winnow does not support"));
        EXPECT_THAT(refusal({}, replace_float(key, kNan)), HasSubstr(key));
        EXPECT_EQ(refusal({}, replace_float(key, 0)), "");
    }
    for (const char* key : {"llama.embedding_scale", "llama.logit_scale", "llama.residual_scale"})
        EXPECT_EQ(refusal({}, replace_float(key, 1)), "");
    EXPECT_EQ(refusal({}, replace_float("llama.attention.scale", 1 / std::sqrt(32.0f))), "");
    EXPECT_EQ(refusal(gemma(), replace_float("gemma3.embedding_scale", 8)), "");
    EXPECT_THAT(refusal(gemma(), replace_float("gemma3.embedding_scale", 1)),
                HasSubstr("'gemma3.embedding_scale' is 1"));
}

TEST(ModelConfig, LinearRopeScaling) {
    const auto scale = [](const Change& change) {
        return read_model_shape(changed({}, change)).layers.at(1).rope_freq_scale;
    };
    const auto both = [](const char* type, float factor) {
        return Change{{}, [=](GgufWriter& w) {
                          w.add_string("llama.rope.scaling.type", type);
                          w.add_float("llama.rope.scaling.factor", factor);
                      }};
    };
    EXPECT_EQ(scale({}), 1.0f);
    EXPECT_EQ(scale(both("linear", 4)), 0.25f);
    EXPECT_EQ(scale(both("none", 4)), 1.0f);
    // Never guess that a factor means nothing: llama.cpp applies these two as well.
    EXPECT_EQ(scale(replace_float("llama.rope.scaling.factor", 4)), 0.25f);
    EXPECT_EQ(scale(replace_float("llama.rope.scale_linear", 2)), 0.5f);
    // The new key says more than the old one.
    const Change old_and_new{{}, [](GgufWriter& w) {
                                 w.add_float("llama.rope.scaling.factor", 4);
                                 w.add_float("llama.rope.scale_linear", 2);
                             }};
    EXPECT_EQ(scale(old_and_new), 0.25f);
    const GgufFile old_gemma = changed(gemma(), replace_float("gemma3.rope.scale_linear", 8));
    EXPECT_EQ(read_model_shape(old_gemma).layers.at(1).rope_freq_scale, 0.125f);
}

TEST(ModelConfig, Llama3FrequencyDivisors) {
    std::vector<float> divisors(16, 1.0f);
    divisors[15] = 8.0f;
    const auto with = [&](float last) {
        divisors[3] = last;
        return Change{{}, [&](GgufWriter& w) {
                          w.add_tensor("rope_freqs.weight", WeightType::kF32, {16}, std::as_bytes(std::span(divisors)));
                      }};
    };
    EXPECT_EQ(read_model_shape(changed({}, with(2))).rope_freq_divisors, divisors);
    for (const float bad : {kNan, kInfinity, 0.0f, -1.0f})
        EXPECT_THAT(refusal({}, with(bad)), HasSubstr("rope_freqs.weight holds"));
    EXPECT_TRUE(read_model_shape(changed({}, {})).rope_freq_divisors.empty());
}

TEST(ModelConfig, BiasesAndUntiedOutput) {
    const Change change{{}, [](GgufWriter& w) {
                            const std::vector<float> zeros(64 * 320);
                            const auto bytes = std::as_bytes(std::span(zeros));
                            for (const std::string blk : {"blk.0.", "blk.1."}) {
                                w.add_tensor(blk + "attn_q.bias", WeightType::kF32, {128}, bytes.first(512));
                                w.add_tensor(blk + "attn_k.bias", WeightType::kF32, {64}, bytes.first(256));
                                w.add_tensor(blk + "attn_v.bias", WeightType::kF32, {64}, bytes.first(256));
                            }
                            w.add_tensor("output.weight", WeightType::kF32, {64, 320}, bytes);
                        }};
    const GgufFile file = changed({}, change);
    const ModelShape s = read_model_shape(file);
    EXPECT_TRUE(s.qkv_bias);
    const ModelTensors t = read_model_tensors(file, s);
    EXPECT_EQ(t.layers.at(1).attn_q_bias->n_in(), 128u);
    EXPECT_EQ(t.output, file.find("output.weight"));
}

TEST(ModelConfig, GemmaLayers) {
    // Six layers make a period unless the file says otherwise; rope.freq_base is the global layers' alone.
    const Change change{{"gemma3.attention.sliding_window_pattern", "gemma3.rope.freq_base"}, [](GgufWriter& w) {
                            w.add_float("gemma3.rope.freq_base", 1e6f);
                            w.add_string("gemma3.rope.scaling.type", "linear");
                            w.add_float("gemma3.rope.scaling.factor", 8);
                        }};
    const ModelShape s = read_model_shape(changed(gemma(13), change));
    for (std::uint32_t il = 0; il < 13; ++il) {
        const bool global = il == 5 || il == 11;
        EXPECT_EQ(s.layers.at(il).window, global ? 0u : 16u) << il;
        EXPECT_EQ(s.layers.at(il).rope_freq_base, global ? 1e6f : 1e4f) << il;
        EXPECT_EQ(s.layers.at(il).rope_freq_scale, global ? 0.125f : 1.0f) << il;
    }
    const ModelShape other = read_model_shape(changed(gemma(), replace_float("gemma3.rope.freq_base_swa", 500)));
    EXPECT_EQ(other.layers.at(0).rope_freq_base, 500.0f);
    EXPECT_EQ(other.layers.at(1).rope_freq_base, 1e4f);
}

TEST(ModelConfig, Gemma27BHasItsOwnScale) {
    EXPECT_FLOAT_EQ(read_model_shape(changed(gemma(62), {})).attention_scale, 1.0f / std::sqrt(64.0f / 4.0f));
    EXPECT_FLOAT_EQ(read_model_shape(changed(gemma(61), {})).attention_scale, 1.0f / std::sqrt(32.0f));
}

TEST(ModelConfig, BadGemmaValuesAreNamed) {
    const Change zero{{}, [](GgufWriter& w) { w.add_float("gemma3.attn_logit_softcapping", 0); }};
    EXPECT_EQ(refusal(gemma(), zero), "");
    expect_refused(
        gemma(),
        {
            {replace_float("gemma3.attn_logit_softcapping", 50), {"'gemma3.attn_logit_softcapping' is 50"}},
            {replace_float("gemma3.final_logit_softcapping", kNan), {"'gemma3.final_logit_softcapping' is nan"}},
            {replace_uint("gemma3.attention.sliding_window", 0), {"'gemma3.attention.sliding_window' is 0"}},
            {{{"gemma3.attention.sliding_window"}}, {"lacks the metadata key 'gemma3.attention.sliding_window'"}},
            {replace_uint("gemma3.attention.sliding_window_pattern", 0), {"sliding_window_pattern' is 0"}},
            {replace_float("gemma3.rope.freq_base_swa", -1), {"'gemma3.rope.freq_base_swa' is -1"}},
            {replace_float("gemma3.rope.freq_base_swa", 0), {"'gemma3.rope.freq_base_swa' is 0"}},
            {replace_float("gemma3.rope.freq_base_swa", kNan), {"'gemma3.rope.freq_base_swa' is nan"}},
            {replace_string("gemma3.rope.scaling.type", "yarn"), {"'yarn'"}},
            {replace_float("gemma3.rope.scale_linear", 0), {"'gemma3.rope.scale_linear' is 0"}},
            {{{"gemma3.attention.layer_norm_rms_epsilon"}}, {"lacks the metadata key 'gemma3.attention.layer_no"}},
            {replace_uint("gemma3.attention.key_length", 512), {"'gemma3.attention.key_length' is 512"}},
            {replace_uint("gemma3.vocab_size", 321), {"'gemma3.vocab_size' is 321", "320 rows"}},
            {replace_tensor("rope_freqs.weight", WeightType::kF32, {16}), {"'rope_freqs.weight' belongs to a variant"}},
            {{{"blk.1.post_ffw_norm.weight"}}, {"no tensor 'blk.1.post_ffw_norm.weight'"}},
            {replace_tensor("blk.0.attn_q_norm.weight", WeightType::kF32, {64}), {"is [64], expected [32]"}},
        });
}

std::string real_model(const char* name) {
    const char* dir = std::getenv("WINNOW_TEST_MODELS");
    if (dir == nullptr) return {};
    const auto path = std::filesystem::path(dir) / name;
    return std::filesystem::exists(path) ? path.string() : std::string();
}

TEST(ModelConfig, Smollm2) {
    const std::string path = real_model("SmolLM2-135M-Instruct.Q4_1.gguf");
    if (path.empty()) GTEST_SKIP() << "SmolLM2 is not in WINNOW_TEST_MODELS";
    const GgufFile file = GgufFile::open(path);
    const ModelShape s = read_model_shape(file);
    EXPECT_EQ(s.n_layers, 30u);
    EXPECT_EQ(s.n_embd, 576u);
    EXPECT_EQ(s.n_group(), 3u);
    EXPECT_EQ(s.n_vocab, 49152u);
    EXPECT_EQ(s.n_ctx_train, 8192u);
    EXPECT_FLOAT_EQ(s.layers.front().rope_freq_base, 100000.0f);
    EXPECT_EQ(read_model_tensors(file, s).layers.front().attn_q->type, WeightType::kQ4_1);
}

TEST(ModelConfig, Gemma3) {
    const std::string path = real_model("gemma-3-270m-q4_k_m.gguf");
    if (path.empty()) GTEST_SKIP() << "Gemma 3 is not in WINNOW_TEST_MODELS";
    const GgufFile file = GgufFile::open(path);
    const ModelShape s = read_model_shape(file);
    EXPECT_EQ(s.n_vocab, 262144u);
    EXPECT_EQ(s.head_dim, 256u);
    std::uint32_t n_global = 0;
    for (const LayerShape& layer : s.layers) n_global += layer.window == 0;
    EXPECT_EQ(n_global, 3u);
    EXPECT_EQ(s.layers.at(5).window, 0u);
    EXPECT_FLOAT_EQ(s.layers.at(5).rope_freq_base, 1e6f);
    EXPECT_FLOAT_EQ(s.layers.at(4).rope_freq_base, 1e4f);
}

}  // namespace
}  // namespace winnow::test
