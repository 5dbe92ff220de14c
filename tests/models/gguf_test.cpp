// SPDX-License-Identifier: Apache-2.0
// What a sound file gives; gguf_hostile_test.cpp has the others.
#include "models/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "models/gguf_writer.h"
#include "models/model_config.h"
#include "tests/support/tiny_gguf.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;

class GgufTest : public ::testing::Test {
protected:
    void SetUp() override {
        folder_ = std::filesystem::temp_directory_path() / ("winnow_gguf_" + std::to_string(::getpid()));
        std::filesystem::create_directories(folder_);
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }

    std::filesystem::path path(const std::string& name = "model.gguf") const { return folder_ / name; }
    GgufFile written(const GgufWriter& writer) const {
        writer.write(path());
        return GgufFile::open(path());
    }
    std::size_t n_files() const {
        return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
    }

    std::filesystem::path folder_;
};

TEST_F(GgufTest, RoundTrip) {
    GgufWriter w;
    w.add_uint("a.uint", 7);
    w.add_float("a.float", 0.5f);
    w.add_bool("a.bool", true);
    w.add_string("a.string", "text");
    w.add_strings("a.strings", {"x", "", "yz"});
    w.add_ints("a.ints", {-1, 2});
    w.add_floats("a.floats", {1.5f});
    w.add_strings("a.empty", {});
    const std::vector<float> values{1, 2, 3, 4, 5, 6};
    w.add_tensor("t", WeightType::kF32, {3, 2}, std::as_bytes(std::span(values)));
    const std::vector<std::byte> block(18, std::byte{42});
    w.add_tensor("q", WeightType::kQ4_0, {32, 1, 1}, block);
    GgufFile gguf = written(w);
    const GgufFile moved = std::move(gguf);
    EXPECT_EQ(moved.version(), 3u);
    EXPECT_EQ(moved.file_bytes(), w.bytes().size());
    EXPECT_EQ(moved.get_uint("a.uint"), 7u);
    EXPECT_EQ(moved.get_float("a.float"), 0.5);
    EXPECT_EQ(moved.get_float("a.uint"), 7.0);  // integers serve as numbers
    EXPECT_EQ(moved.find_bool("a.bool"), true);
    EXPECT_EQ(moved.get_string("a.string"), "text");
    EXPECT_EQ(moved.find_array("a.strings")->strings.at(2), "yz");
    EXPECT_EQ(moved.find_array("a.ints")->integers.at(0), -1);
    EXPECT_EQ(moved.find_array("a.floats")->floats.at(0), 1.5);
    EXPECT_EQ(moved.find_array("a.empty")->size(), 0u);
    const GgufTensor& t = moved.tensor("t");
    EXPECT_EQ(t.n_in(), 3u);
    EXPECT_EQ(t.n_rows(), 2u);
    EXPECT_EQ(std::memcmp(t.bytes.data(), values.data(), 24), 0);
    EXPECT_EQ(moved.tensor("q").type, WeightType::kQ4_0);
    EXPECT_EQ(std::memcmp(moved.tensor("q").bytes.data(), block.data(), 18), 0);
    for (const GgufTensor& tensor : moved.tensors())
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % 32, 0u) << tensor.name;
}

TEST_F(GgufTest, LookupsSayWhatIsMissingOrOfAnotherType) {
    GgufWriter w;
    w.add_string("a.string", "text");
    w.add_uint("a.uint", 7);
    const GgufFile gguf = written(w);
    EXPECT_FALSE(gguf.find_uint("absent").has_value());
    EXPECT_EQ(gguf.find_array("absent"), nullptr);
    EXPECT_EQ(gguf.find("absent"), nullptr);
    EXPECT_THROW(gguf.find_uint("a.string"), Error);
    EXPECT_THROW(gguf.find_float("a.string"), Error);
    EXPECT_THROW(gguf.find_bool("a.uint"), Error);
    EXPECT_THROW(gguf.find_string("a.uint"), Error);
    EXPECT_THROW(gguf.find_array("a.uint"), Error);
    EXPECT_THROW(gguf.get_float("absent"), Error);
    EXPECT_THROW(gguf.get_string("absent"), Error);
    EXPECT_THROW(gguf.tensor("absent"), Error);
    try {
        gguf.get_uint("absent.key");
        FAIL();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kBadFile);
        EXPECT_THAT(e.what(), HasSubstr("absent.key"));
        EXPECT_THAT(e.what(), HasSubstr(path().string()));
    }
}

TEST_F(GgufTest, TinyModelsOfEveryTypeAreAccepted) {
    for (const char* name : {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}) {
        for (const char* architecture : {"llama", "gemma3"}) {
            SCOPED_TRACE(std::string(name) + " " + architecture);
            TinyOptions o;
            o.architecture = architecture;
            o.type = weight_type_from_name(name).value();
            if (block_format(o.type).weights == 256) {
                o.n_embd = o.n_ff = 256;
                o.n_heads = 8;
            }
            const std::vector<std::byte> bytes = make_tiny_gguf(o);
            std::ofstream(path(), std::ios::binary)
                .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
            const GgufFile gguf = GgufFile::open(path());
            const ModelTensors tensors = read_model_tensors(gguf, read_model_shape(gguf));
            EXPECT_EQ(tensors.layers.at(0).attn_q->type, o.type);
        }
    }
}

TEST_F(GgufTest, WritingReplacesAFileWholeOrNotAtAll) {
    GgufWriter one;
    one.add_uint("n", 1);
    one.write(path());
    GgufWriter two;
    two.add_uint("n", 2);
    two.write(path());
    EXPECT_EQ(GgufFile::open(path()).get_uint("n"), 2u);
    EXPECT_EQ(n_files(), 1u);  // no temporary is left

    std::filesystem::create_directory(path("taken"));
    std::ofstream(path("taken") / "inside") << "x";
    for (const auto& bad : {path("taken"), path("absent") / "model.gguf"}) {
        try {
            two.write(bad);
            ADD_FAILURE() << bad;
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kIo) << e.what();
            EXPECT_THAT(e.what(), HasSubstr(bad.string()));
        }
    }
    EXPECT_EQ(n_files(), 2u);
}

// As large as Gemma's; gguf.h promises views into the file, not copies.
TEST_F(GgufTest, LargeVocabulary) {
    std::vector<std::string> tokens;
    for (int i = 0; i < 262144; ++i) tokens.push_back("token" + std::to_string(i));
    GgufWriter w;
    w.add_strings("tokenizer.ggml.tokens", tokens);
    w.add_floats("tokenizer.ggml.scores", std::vector<float>(tokens.size(), -1.0f));
    const GgufFile gguf = written(w);
    const GgufArray* got = gguf.find_array("tokenizer.ggml.tokens");
    ASSERT_EQ(got->size(), tokens.size());
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), got->strings.begin()));
    EXPECT_EQ(gguf.find_array("tokenizer.ggml.scores")->floats.size(), tokens.size());
}

TEST(GgufTypes, NamesAndBlocks) {
    EXPECT_STREQ(type_name(WeightType::kQ4_K), "Q4_K");
    EXPECT_EQ(weight_type_from_name("q4_k"), WeightType::kQ4_K);
    EXPECT_EQ(weight_type_from_name("bf16"), WeightType::kBF16);
    EXPECT_FALSE(weight_type_from_name("q4_k_m").has_value());
    EXPECT_FALSE(weight_type_from_name("").has_value());
    EXPECT_EQ(row_bytes(WeightType::kQ6_K, 512), 420u);
    EXPECT_EQ(row_bytes(WeightType::kF16, 3), 6u);
    EXPECT_THROW(row_bytes(WeightType::kQ8_0, 33), Error);
}

struct RealModel {
    const char* file;
    std::size_t n_tensors, n_tokens;
};
class GgufRealModelTest : public ::testing::TestWithParam<RealModel> {};

TEST_P(GgufRealModelTest, Opens) {
    const char* folder = std::getenv("WINNOW_TEST_MODELS");
    const auto path = std::filesystem::path(folder != nullptr ? folder : "") / GetParam().file;
    if (folder == nullptr || !std::filesystem::exists(path))
        GTEST_SKIP() << GetParam().file << " is not in WINNOW_TEST_MODELS";
    const GgufFile gguf = GgufFile::open(path);
    EXPECT_EQ(gguf.tensors().size(), GetParam().n_tensors);
    EXPECT_EQ(gguf.find_array("tokenizer.ggml.tokens")->size(), GetParam().n_tokens);
    std::uint64_t n_bytes = 0;
    for (const GgufTensor& t : gguf.tensors()) n_bytes += t.bytes.size();
    EXPECT_GT(n_bytes, gguf.file_bytes() * 9 / 10);
    EXPECT_EQ(read_model_tensors(gguf, read_model_shape(gguf)).output, gguf.find("token_embd.weight"));
}

INSTANTIATE_TEST_SUITE_P(Models, GgufRealModelTest,
                         ::testing::Values(RealModel{"SmolLM2-135M-Instruct.Q4_1.gguf", 272, 49152},
                                           RealModel{"gemma-3-270m-q4_k_m.gguf", 236, 262144}),
                         [](const auto& test) { return test.index == 0 ? "Smollm2" : "Gemma3"; });

}  // namespace
}  // namespace winnow::test
