// SPDX-License-Identifier: Apache-2.0
// Ids and splits against the libraries the models were made with; see make_tokenizer_golden.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf.h"
#include "models/pre_tokenizer.h"
#include "models/tokenizer.h"

namespace winnow::test {
namespace {

using nlohmann::json;

json read_golden(const std::string& name) {
    std::ifstream in(std::filesystem::path(WINNOW_TEST_DATA) / "golden" / name);
    return json::parse(in);
}

class TokenizerGolden : public ::testing::TestWithParam<const char*> {
protected:
    void SetUp() override {
        golden_ = read_golden(GetParam());
        const char* folder = std::getenv("WINNOW_TEST_MODELS");
        if (!folder) GTEST_SKIP() << "WINNOW_TEST_MODELS is not set";
        const auto path = std::filesystem::path(folder) / golden_["model"].get<std::string>();
        if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
        tokenizer_ = Tokenizer::from_gguf(GgufFile::open(path));  // the file is closed at once
    }
    std::vector<TokenId> encode(const std::string& text, bool parse_special) const {
        return tokenizer_->encode(text, {.add_bos = false, .parse_special = parse_special});
    }

    json golden_;
    std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerGolden, GivesTheIdsOfTheOriginal) {
    for (const json& c : golden_["cases"]) {
        const auto text = c["text"].get<std::string>();
        SCOPED_TRACE(c["text"].dump(-1, ' ', true));
        EXPECT_EQ(encode(text, true), c["ids"].get<std::vector<TokenId>>());
        EXPECT_EQ(encode(text, false),
                  c.value("plain_ids", c["ids"]).get<std::vector<TokenId>>());
    }
}

TEST_P(TokenizerGolden, DecodesToTheText) {
    const bool is_gemma = tokenizer_->find("<start_of_turn>") >= 0;
    for (const json& c : golden_["cases"]) {
        const auto text = c["text"].get<std::string>();
        SCOPED_TRACE(c["text"].dump(-1, ' ', true));
        // SmolLM2 has no tokens for 21 bytes, and SentencePiece takes U+2581 for a space.
        bool is_lossy = is_gemma && text.find("\u2581") != text.npos;
        for (const char byte : text) {
            is_lossy = is_lossy || encode(std::string(1, byte), false).empty();
        }
        if (is_lossy) continue;
        EXPECT_EQ(tokenizer_->decode(encode(text, true), true), text);
        EXPECT_EQ(tokenizer_->decode(encode(text, false)), text);
    }
}

TEST_P(TokenizerGolden, AddsBosOnlyIfTheModelWantsIt) {
    const std::vector<TokenId> ids = tokenizer_->encode("Hello");
    ASSERT_FALSE(ids.empty());
    EXPECT_EQ(ids[0] == tokenizer_->bos(), tokenizer_->adds_bos());
    const std::string bos(tokenizer_->raw_token(tokenizer_->bos()));
    const std::vector<TokenId> spelled = tokenizer_->encode(bos + "Hello");
    EXPECT_EQ(spelled[0], tokenizer_->bos());
    EXPECT_NE(spelled[1], tokenizer_->bos());
}

TEST_P(TokenizerGolden, KnowsWhatEndsAnAnswer) {
    const auto is_end = [&](const char* token) {
        const auto& eog = tokenizer_->eog();
        const TokenId id = tokenizer_->find(token);
        return id >= 0 && std::find(eog.begin(), eog.end(), id) != eog.end();
    };
    if (tokenizer_->find("<start_of_turn>") >= 0) {
        EXPECT_TRUE(is_end("<eos>") && is_end("<end_of_turn>"));
        EXPECT_FALSE(is_end("</s>")) << "an HTML tag here";
        EXPECT_FALSE(is_end("<start_of_turn>"));
    } else {
        EXPECT_TRUE(is_end("<|im_end|>") && is_end("<|endoftext|>"));
        EXPECT_FALSE(is_end("<|im_start|>"));
    }
}

TEST_P(TokenizerGolden, EncodesAMegabyteInTwoSeconds) {
    std::string prose;
    for (std::size_t i = 0; prose.size() < (1 << 20); ++i) {
        prose += golden_["cases"][i % golden_["cases"].size()]["text"].get<std::string>();
    }
    const std::string texts[] = {prose, std::string(1 << 20, 'a'), std::string(1 << 20, ' ') + "x",
                                 std::string(1 << 20, '\n'), std::string(1 << 20, '\xFF')};
    for (const std::string& text : texts) {
        SCOPED_TRACE(text.substr(0, 8));
        const auto begin = std::chrono::steady_clock::now();
        const std::vector<TokenId> ids = encode(text, true);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        EXPECT_LT(seconds.count(), 2.0);
    }
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerGolden,
                         ::testing::Values("tokenizer_smollm.json", "tokenizer_gemma.json"),
                         [](const auto& param) {
                             const std::string_view file = param.param;
                             return file.find("gemma") != file.npos ? "gemma" : "smollm";
                         });

std::vector<std::size_t> sizes(const std::vector<std::string_view>& pieces) {
    std::vector<std::size_t> out;
    for (const std::string_view piece : pieces) out.push_back(piece.size());
    return out;
}

TEST(PreTokenizerGolden, SplitsLikeTheOriginal) {
    const json golden = read_golden("pre_tokenizer.json");
    for (const json& family : golden["families"]) {
        const PreTokenizer pre(family.get<std::string>());
        for (const json& c : golden["cases"]) {
            const auto text = c["text"].get<std::string>();
            SCOPED_TRACE(family.dump() + " " + c["text"].dump(-1, ' ', true));
            EXPECT_EQ(sizes(pre.split(text)),
                      c[family.get<std::string>()].get<std::vector<std::size_t>>());
        }
    }
}

TEST(PreTokenizerGolden, CutsOutInvalidBytes) {
    const PreTokenizer pre("llama-bpe");
    const std::vector<std::string_view> expected{"ab", "\xFF\xC0\x80", " cd", "\xE2\x96", "1"};
    EXPECT_EQ(pre.split("ab\xFF\xC0\x80 cd\xE2\x96" "1"), expected);
    EXPECT_EQ(sizes(pre.split("\xED\xA0\x80")), std::vector<std::size_t>{3}) << "a surrogate";
    EXPECT_TRUE(pre.split("").empty());
}

}  // namespace
}  // namespace winnow::test
