// SPDX-License-Identifier: Apache-2.0
// Invented models and weights: the same everywhere, of sensible size, with a tokenizer that knows every byte.
#include "tests/support/tiny_gguf.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "models/model_config.h"
#include "models/random_model.h"
#include "tests/reference/dequantize.h"

namespace winnow::test {
namespace {

GgufFile open_bytes(const std::vector<std::byte>& bytes) {
    const auto path = std::filesystem::temp_directory_path() / ("winnow_tiny_" + std::to_string(::getpid()) + ".gguf");
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    GgufFile file = GgufFile::open(path);
    std::filesystem::remove(path);  // the mapping keeps it
    return file;
}

constexpr std::array kTypes{WeightType::kF32,  WeightType::kF16,  WeightType::kBF16, WeightType::kQ4_0,
                            WeightType::kQ4_1, WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kQ8_0,
                            WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K};

TEST(Tiny, IsDeterministic) {
    for (const char* architecture : {"llama", "gemma3"}) {
        TinyOptions o;
        o.architecture = architecture;
        const auto bytes = make_tiny_gguf(o);
        EXPECT_EQ(bytes, make_tiny_gguf(o));
        o.seed = 2;
        const auto other = make_tiny_gguf(o);
        EXPECT_EQ(bytes.size(), other.size());
        EXPECT_NE(bytes, other);
    }
}

TEST(Tiny, FollowsItsOptions) {
    TinyOptions o;
    o.architecture = "gemma3";
    o.type = WeightType::kQ6_K;
    o.n_layers = 3;
    o.n_embd = 256;
    o.n_ff = 512;
    o.n_heads = 8;
    o.n_kv_heads = 1;
    o.head_dim = 64;
    o.n_ctx = 100;
    o.window = 5;
    const GgufFile file = open_bytes(make_tiny_gguf(o));
    const ModelShape s = read_model_shape(file);
    EXPECT_EQ(s.n_layers, 3u);
    EXPECT_EQ(s.n_embd, 256u);
    EXPECT_EQ(s.n_ff, 512u);
    EXPECT_EQ(s.n_heads, 8u);
    EXPECT_EQ(s.n_kv_heads, 1u);
    EXPECT_EQ(s.head_dim, 64u);
    EXPECT_EQ(s.n_ctx_train, 100u);
    EXPECT_EQ(s.layers.at(2).window, 5u);
    EXPECT_EQ(read_model_tensors(file, s).layers.at(2).ffn_down->type, WeightType::kQ6_K);
    o.n_embd = 64;  // no multiple of a Q6_K block
    EXPECT_THROW(make_tiny_gguf(o), Error);
    o.vocabulary_only = true;
    EXPECT_TRUE(open_bytes(make_tiny_gguf(o)).tensors().empty());
}

TEST(Tiny, ByteLevelVocabulary) {
    TinyOptions o;
    o.vocabulary_only = true;
    const GgufFile file = open_bytes(make_tiny_gguf(o));
    const auto& tokens = file.find_array("tokenizer.ggml.tokens")->strings;
    const auto& types = file.find_array("tokenizer.ggml.token_type")->integers;
    EXPECT_EQ(tokens.size(), 320u);
    EXPECT_EQ(types.size(), tokens.size());
    const std::set<std::string_view> known(tokens.begin(), tokens.end());
    EXPECT_EQ(known.size(), tokens.size()) << "a token appears twice";
    // GPT-2's alphabet: printable Latin-1 for itself, the other 68 bytes from U+0100 on.
    std::size_t n_single = 0, n_moved = 0;
    for (const std::string_view t : tokens) {
        if (t.size() == 1) ++n_single;
        if (t.size() == 2 && (t[0] == '\xc4' || t[0] == '\xc5')) ++n_moved;
    }
    EXPECT_EQ(n_single, 94u);
    EXPECT_EQ(n_moved, 68u);
    EXPECT_TRUE(known.contains("\xc4\xa0"));  // space
    EXPECT_TRUE(known.contains("\xc4\x8a"));  // line feed
    for (const char* special : {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}) EXPECT_TRUE(known.contains(special));
    for (const std::string_view merge : file.find_array("tokenizer.ggml.merges")->strings) {
        const std::size_t space = merge.find(' ', 1);
        ASSERT_NE(space, std::string_view::npos);
        EXPECT_TRUE(known.contains(merge.substr(0, space)) && known.contains(merge.substr(space + 1))) << merge;
        EXPECT_TRUE(known.contains(std::string(merge.substr(0, space)) + std::string(merge.substr(space + 1))))
            << merge;
    }
    EXPECT_EQ(tokens[file.get_uint("tokenizer.ggml.eos_token_id")], "<|im_end|>");
    EXPECT_NE(file.get_string("tokenizer.chat_template").find("<|im_start|>"), std::string_view::npos);
}

TEST(Tiny, SentencePieceVocabulary) {
    TinyOptions o;
    o.architecture = "gemma3";
    o.vocabulary_only = true;
    const GgufFile file = open_bytes(make_tiny_gguf(o));
    const auto& tokens = file.find_array("tokenizer.ggml.tokens")->strings;
    const auto& types = file.find_array("tokenizer.ggml.token_type")->integers;
    const auto& scores = file.find_array("tokenizer.ggml.scores")->floats;
    EXPECT_EQ(tokens.size(), 320u);
    EXPECT_EQ(types.size(), tokens.size());
    EXPECT_EQ(scores.size(), tokens.size());
    const std::set<std::string_view> known(tokens.begin(), tokens.end());
    EXPECT_EQ(known.size(), tokens.size()) << "a token appears twice";
    EXPECT_EQ(std::count(types.begin(), types.end(), 6), 256);
    for (const char* t : {"<0x00>", "<0xFF>", "\xe2\x96\x81", "a", "z", "<start_of_turn>", "<end_of_turn>"})
        EXPECT_TRUE(known.contains(t)) << t;
    EXPECT_EQ(tokens[file.get_uint("tokenizer.ggml.bos_token_id")], "<bos>");
    EXPECT_EQ(tokens[file.get_uint("tokenizer.ggml.eos_token_id")], "<eos>");
    EXPECT_NE(file.get_string("tokenizer.chat_template").find("<start_of_turn>"), std::string_view::npos);
}

class RandomWeightsTest : public ::testing::TestWithParam<WeightType> {};

// Activations stay near 1 only if no type makes weights much larger than another, or of one sign.
TEST_P(RandomWeightsTest, AreFiniteAndOfOneSize) {
    const std::size_t n = 1u << 16;
    std::vector<std::byte> blocks(row_bytes(GetParam(), n));
    fill_random_weights(GetParam(), 7, blocks);
    const reference::Matrix m = reference::dequantize(GetParam(), blocks, 1, n);
    double sum = 0, square = 0, largest = 0;
    for (const double v : m.values) {
        ASSERT_TRUE(std::isfinite(v));
        sum += v;
        square += v * v;
        largest = std::max(largest, std::abs(v));
    }
    const double mean = sum / static_cast<double>(n);
    const double deviation = std::sqrt(square / static_cast<double>(n) - mean * mean);
    RecordProperty("deviation", std::to_string(deviation));
    EXPECT_GT(deviation, 0.008);
    EXPECT_LT(deviation, 0.05);
    EXPECT_LT(std::abs(mean), deviation);
    EXPECT_LT(largest, 0.3);
}

// A block depends on the seed and on where it stands, not on how many threads share the work.
TEST_P(RandomWeightsTest, DependOnSeedAndPlaceAlone) {
    const std::size_t block = block_format(GetParam()).bytes;
    const std::size_t n_blocks = (3u << 20) / block;  // enough for several threads
    std::vector<std::byte> many(n_blocks * block), few(37 * block);
    fill_random_weights(GetParam(), 7, many);
    fill_random_weights(GetParam(), 7, few);
    EXPECT_TRUE(std::equal(few.begin(), few.end(), many.begin()));
    std::vector<std::byte> again(many.size());
    fill_random_weights(GetParam(), 7, again);
    EXPECT_TRUE(again == many);  // not EXPECT_EQ: it would print megabytes
    fill_random_weights(GetParam(), 8, again);
    EXPECT_FALSE(again == many);
}

INSTANTIATE_TEST_SUITE_P(Types, RandomWeightsTest, ::testing::ValuesIn(kTypes),
                         [](const auto& test) { return type_name(test.param); });

}  // namespace
}  // namespace winnow::test
