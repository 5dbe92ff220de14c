// SPDX-License-Identifier: Apache-2.0
// Ids and splits against the libraries the models were made with; see make_tokenizer_golden.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf.h"
#include "models/pre_tokenizer.h"
#include "models/tokenizer.h"
#include "tests/support/cpu_time.h"

namespace winnow::test {
namespace {

using nlohmann::json;

json read_golden(const std::string& name) {
    std::ifstream in(std::filesystem::path(WINNOW_TEST_DATA) / "golden" / name);
    return json::parse(in);
}

std::string utf8(unsigned code_point) {
    if (code_point >= 0xD800 && code_point < 0xE000) return "";  // a surrogate is none
    if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
    const int n_more = code_point < 0x800 ? 1 : code_point < 0x10000 ? 2 : 3;
    std::string out(1, static_cast<char>(0xF00u >> (n_more + 1) | code_point >> 6 * n_more));
    for (int i = n_more - 1; i >= 0; --i) {
        out += static_cast<char>(0x80 | (code_point >> 6 * i & 63));
    }
    return out;
}

bool is_valid(const std::string& text) {
    try {
        json(text).dump();  // is strict
        return true;
    } catch (const json::type_error&) {
        return false;
    }
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
        EXPECT_EQ(encode(text, false), c.value("plain_ids", c["ids"]).get<std::vector<TokenId>>());
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

// Bytes and code points at random; left out is what is lossy, as above.
TEST_P(TokenizerGolden, KeepsAnyText) {
    std::mt19937 random(4);
    std::array<bool, 256> has_token;
    for (int byte = 0; byte < 256; ++byte) {
        has_token[static_cast<std::size_t>(byte)] = !encode(std::string(1, static_cast<char>(byte)), false).empty();
    }
    for (int round = 0; round < 200; ++round) {
        std::string text;
        while (text.size() < 300) {
            std::string next(1, static_cast<char>(random()));
            if (round % 2) {
                const auto n_bits = 7 + random() % 14;
                next = utf8(static_cast<unsigned>(random() % (1u << n_bits)));
                ASSERT_TRUE(is_valid(next));
            }
            const bool is_kept =
                std::all_of(next.begin(), next.end(), [&](char c) { return has_token[static_cast<unsigned char>(c)]; });
            if (is_kept && next != "\u2581") text += next;
        }
        EXPECT_EQ(tokenizer_->decode(encode(text, true), true), text) << "round " << round;
        EXPECT_EQ(tokenizer_->decode(encode(text, false)), text) << "round " << round;
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
        const double begin = cpu_seconds();
        const std::vector<TokenId> ids = encode(text, true);
        EXPECT_LT(cpu_seconds() - begin, kMostSeconds);
    }
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerGolden, ::testing::Values("tokenizer_smollm.json", "tokenizer_gemma.json"),
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
            EXPECT_EQ(sizes(pre.split(text)), c[family.get<std::string>()].get<std::vector<std::size_t>>());
        }
    }
}

TEST(PreTokenizerGolden, CutsOutInvalidBytes) {
    const PreTokenizer pre("llama-bpe");
    const std::vector<std::string_view> expected{"ab", "\xFF\xC0\x80", " cd", "\xE2\x96", "1"};
    EXPECT_EQ(pre.split("ab\xFF\xC0\x80 cd\xE2\x96"
                        "1"),
              expected);
    EXPECT_EQ(sizes(pre.split("\xED\xA0\x80")), std::vector<std::size_t>{3}) << "a surrogate";
    EXPECT_TRUE(pre.split("").empty());
}

}  // namespace
}  // namespace winnow::test
