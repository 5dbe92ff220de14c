// SPDX-License-Identifier: Apache-2.0
#include "models/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "models/tiny.h"

namespace winnow::test {
namespace {

GgufFile open_bytes(const std::vector<std::byte>& bytes, const std::filesystem::path& path) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    GgufFile file = GgufFile::open(path);
    std::filesystem::remove(path);  // the mapping keeps it
    return file;
}

std::string real_model(const char* name) {
    const char* dir = std::getenv("WINNOW_TEST_MODELS");
    if (dir == nullptr) return {};
    const auto path = std::filesystem::path(dir) / name;
    return std::filesystem::exists(path) ? path.string() : std::string();
}

TEST(ModelConfig, TinyShapes) {
    const auto path = std::filesystem::temp_directory_path() / ("winnow_tiny_" + std::to_string(::getpid()) + ".gguf");
    const GgufFile llama = open_bytes(make_tiny_gguf(), path);
    const ModelShape s = read_model_shape(llama);
    EXPECT_EQ(s.n_layers, 2u);
    EXPECT_EQ(s.n_group(), 2u);
    EXPECT_EQ(s.rope_pairing, RopePairing::kNorm);
    EXPECT_FLOAT_EQ(s.attention_scale, 1.0f / std::sqrt(32.0f));
    const ModelTensors t = read_model_tensors(llama, s);
    EXPECT_EQ(t.output, t.token_embd);
    EXPECT_EQ(t.layers.at(1).ffn_down->n_in(), s.n_ff);

    TinyOptions o;
    o.architecture = "gemma3";
    const GgufFile gemma = open_bytes(make_tiny_gguf(o), path);
    const ModelShape g = read_model_shape(gemma);
    EXPECT_TRUE(g.qk_norm && g.post_norms);
    EXPECT_EQ(g.layers.at(0).window, 16u);
    EXPECT_EQ(g.layers.at(1).window, 0u);
    EXPECT_FLOAT_EQ(g.embedding_scale, 8.0f);
    EXPECT_NE(read_model_tensors(gemma, g).layers.at(0).post_ffw_norm, nullptr);
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
