// SPDX-License-Identifier: Apache-2.0
// Rules of the tokenizers on small made-up vocabularies; tokenizer_golden_test.cpp has real ones.
#include "models/tokenizer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "models/gguf.h"
#include "models/gguf_writer.h"
#include "models/pre_tokenizer.h"
#include "tests/support/cpu_time.h"
#include "winnow/error.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;
using Ids = std::vector<TokenId>;
constexpr std::string_view kSpace = "\u2581";

enum Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6 };

/// A vocabulary-only file to be. Tests change a field and open it.
struct Draft {
    std::string model;
    std::optional<std::string> pre;
    std::vector<std::string> tokens;
    std::vector<std::int32_t> types;
    std::vector<float> scores;
    std::vector<std::string> merges;
    std::map<std::string, std::uint32_t> ids;
    std::map<std::string, bool> flags;

    TokenId add(std::string_view token, int type = kNormal, float score = 0) {
        tokens.emplace_back(token);
        types.push_back(type);
        if (model == "llama") scores.push_back(score);
        return static_cast<TokenId>(tokens.size()) - 1;
    }
    void add_merge(const std::string& left, const std::string& right) {
        merges.push_back(left + " " + right);
        add(left + right);
    }
    std::unique_ptr<Tokenizer> open() const {
        GgufWriter writer;
        writer.add_string("general.architecture", "llama");
        if (!model.empty()) writer.add_string("tokenizer.ggml.model", model);
        if (pre) writer.add_string("tokenizer.ggml.pre", *pre);
        writer.add_strings("tokenizer.ggml.tokens", tokens);
        if (!types.empty()) writer.add_ints("tokenizer.ggml.token_type", types);
        if (!scores.empty()) writer.add_floats("tokenizer.ggml.scores", scores);
        if (!merges.empty()) writer.add_strings("tokenizer.ggml.merges", merges);
        for (const auto& [name, id] : ids) {
            writer.add_uint(fmt::format("tokenizer.ggml.{}_token_id", name), id);
        }
        for (const auto& [name, flag] : flags) writer.add_bool("tokenizer.ggml." + name, flag);
        static std::atomic<int> n_files{0};
        const auto path =
            std::filesystem::temp_directory_path() / fmt::format("winnow_tokenizer_{}_{}.gguf", getpid(), n_files++);
        writer.write(path);
        struct Remove {
            std::filesystem::path path;
            ~Remove() { std::filesystem::remove(path); }
        } remove{path};
        return Tokenizer::from_gguf(GgufFile::open(path));
    }
};

std::string utf8(unsigned code_point) {
    if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
    return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 63))};
}

/// All bytes as GPT-2 spells them (token = byte), then special tokens, then a few merges.
Draft bpe_draft(const std::string& pre = "gpt-2") {
    Draft d;
    d.model = "gpt2";
    d.pre = pre;
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
        const bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        d.add(utf8(printable ? b : next++));
    }
    d.ids["bos"] = static_cast<std::uint32_t>(d.add("<|bos|>", kControl));
    d.ids["eos"] = static_cast<std::uint32_t>(d.add("<|eos|>", kControl));
    d.add("<|eot|>", kControl);
    d.add("<tool>", kUserDefined);
    d.add("<tool>!", kUserDefined);
    d.add_merge("a", "b");
    d.add_merge("b", "c");
    d.add_merge("ab", "c");
    d.add_merge(utf8(0x120), "a");  // " a"
    return d;
}

/// Llama 2's layout: unk, bos, eos, 256 bytes, then pieces.
Draft spm_draft() {
    Draft d;
    d.model = "llama";
    d.add("<unk>", kUnknown);
    d.add("<s>", kControl);
    d.add("</s>", kControl);
    for (unsigned b = 0; b < 256; ++b) d.add(fmt::format("<0x{:02X}>", b), kByte);
    d.add(kSpace, kNormal, -50);
    for (const char* c : {"a", "b", "c", "\u00e9"}) d.add(c, kNormal, -60);
    d.add("ab", kNormal, -2);
    d.add("bc", kNormal, -1);
    d.add("abc", kNormal, -3);
    d.add(std::string(kSpace) + "a", kNormal, -4);
    d.add("<tool>", kUserDefined);
    return d;
}

Ids encode(const Tokenizer& t, std::string_view text, bool parse_special = true) {
    return t.encode(text, {.add_bos = false, .parse_special = parse_special});
}

std::vector<std::string> raw(const Tokenizer& t, const Ids& ids) {
    std::vector<std::string> out;
    for (const TokenId id : ids) out.emplace_back(t.raw_token(id));
    return out;
}

using Raw = std::vector<std::string>;

void expect_bad(const Draft& draft, const std::string& what) {
    try {
        draft.open();
        ADD_FAILURE() << "opened; expected: " << what;
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kBadFile);
        const std::string text = e.what();
        EXPECT_THAT(text, HasSubstr(what));
        EXPECT_THAT(text, HasSubstr("; download it again or choose another model"));
        EXPECT_LT(text.size(), 1500u);
        for (const char c : text) EXPECT_TRUE(c >= ' ' && c <= '~') << text;
    }
}

TEST(TokenizerBpe, MergesByRank) {
    const auto t = bpe_draft().open();
    EXPECT_EQ(raw(*t, encode(*t, "abc")), Raw{"abc"});
    EXPECT_EQ(raw(*t, encode(*t, "bcab")), (Raw{"bc", "ab"}));
    EXPECT_EQ(raw(*t, encode(*t, "bbc abc")), (Raw{"b", "bc", "\u0120", "abc"}));
    EXPECT_EQ(encode(*t, ""), Ids{});
}

// The short and the long way must agree with merging literally by rank.
TEST(TokenizerBpe, MergesLikeTheDefinition) {
    std::mt19937 random(1);
    Draft d = bpe_draft("gpt-2");
    std::map<std::pair<std::string, std::string>, std::size_t> ranks;
    d.merges.clear();
    std::vector<std::string> parts{"a", "b", "c"};
    while (d.merges.size() < 40) {
        const std::string& left = parts[random() % parts.size()];
        const std::string& right = parts[random() % parts.size()];
        if (left.size() + right.size() > 6 || ranks.contains({left, right})) continue;
        ranks[{left, right}] = d.merges.size();
        const std::string both = left + right;
        d.merges.push_back(left + " " + right);
        if (std::find(d.tokens.begin(), d.tokens.end(), both) == d.tokens.end()) d.add(both);
        parts.push_back(both);
    }
    const auto t = d.open();
    for (std::size_t length = 1; length < 120; ++length) {
        Raw symbols;
        std::string text;
        for (std::size_t i = 0; i < length; ++i) {
            text += static_cast<char>('a' + random() % 3);
            symbols.push_back(text.substr(i));
        }
        while (true) {
            std::size_t best = ranks.size(), at = 0;
            for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
                const auto found = ranks.find({symbols[i], symbols[i + 1]});
                if (found != ranks.end() && found->second < best) best = found->second, at = i;
            }
            if (best == ranks.size()) break;
            symbols[at] += symbols[at + 1];
            symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
        }
        EXPECT_EQ(raw(*t, encode(*t, text)), symbols) << text;
    }
}

TEST(TokenizerBpe, TakesWholePiecesOnlyIfTheFamilyIgnoresMerges) {
    for (const std::string pre : {"llama-bpe", "smaug-bpe"}) {
        Draft d = bpe_draft(pre);
        d.add("xyz");  // no merges lead here
        const auto t = d.open();
        const Raw expected = pre == "llama-bpe" ? Raw{"xyz"} : Raw{"x", "y", "z"};
        EXPECT_EQ(raw(*t, encode(*t, "xyz")), expected);
        EXPECT_EQ(t->adds_bos(), pre == "llama-bpe");
    }
}

TEST(TokenizerBpe, NeverMakesControlTokensOfPlainText) {
    Draft d = bpe_draft("llama-bpe");
    const TokenId stop = d.add("stop", kControl);
    const auto t = d.open();
    EXPECT_EQ(encode(*t, "stop"), Ids{stop});
    EXPECT_EQ(raw(*t, encode(*t, "stop", false)), (Raw{"s", "t", "o", "p"}));
}

TEST(TokenizerBpe, KeepsAnyBytes) {
    std::mt19937 random(2);
    for (const std::string_view pre : PreTokenizer::names()) {
        const auto t = bpe_draft(std::string(pre)).open();
        for (int round = 0; round < 20; ++round) {
            std::string text;
            for (int i = 0; i < 300; ++i) {
                text += round % 2 ? static_cast<char>(random()) : " \r\nab'sS1\xC3\xA9"[random() % 11];
            }
            EXPECT_EQ(t->decode(encode(*t, text)), text);
        }
    }
}

// The second time its ids are copied; `out` grows meanwhile.
TEST(TokenizerBpe, GivesARepeatedWordTheSameIds) {
    const auto t = bpe_draft("llama-bpe").open();
    const std::string words[] = {" abcab", " xyz", " \u00e9\u00e9", " bcbcbc", " a"};
    std::string text;
    Ids expected;
    for (int i = 0; i < 1000; ++i) {
        const std::string& word = words[i * i % 7 % 5];
        const Ids ids = encode(*t, word);
        text += word;
        expected.insert(expected.end(), ids.begin(), ids.end());
    }
    EXPECT_EQ(encode(*t, text), expected);
}

TEST(TokenizerBpe, DropsBytesWithoutATokenAndNamesThem) {
    EXPECT_EQ(bpe_draft().open()->missing_bytes(), "");
    EXPECT_EQ(spm_draft().open()->missing_bytes(), "");
    Draft d = bpe_draft();
    d.tokens[0xFF] = "<removed>";
    d.tokens[4] = "<removed too>";
    const auto t = d.open();
    EXPECT_EQ(t->decode(encode(*t,
                               "a\xFF"
                               "b")),
              "ab");
    EXPECT_EQ(t->missing_bytes(), "\x04\xFF");
}

TEST(TokenizerSpm, MergesByScoreWithASpaceInFront) {
    const auto t = spm_draft().open();
    EXPECT_EQ(raw(*t, encode(*t, "bc")), (Raw{std::string(kSpace), "bc"}));
    EXPECT_EQ(raw(*t, encode(*t, "abc a")), (Raw{std::string(kSpace), "abc", "\u2581a"}));
    EXPECT_EQ(t->decode(encode(*t, "abc")), "abc");
    EXPECT_EQ(t->decode(encode(*t, "  abc ")), "  abc ");
    EXPECT_EQ(t->encode("bc").front(), t->bos()) << "the default of this kind";
    EXPECT_EQ(t->decode(t->encode("bc")), "bc");
    EXPECT_EQ(encode(*t, ""), Ids{});
    EXPECT_EQ(t->piece(t->find(std::string(kSpace) + "a")), " a");
}

TEST(TokenizerSpm, TakesTheLeftmostOfEqualScores) {
    Draft d = spm_draft();
    d.scores[static_cast<std::size_t>(d.open()->find("ab"))] = -1;
    d.tokens[static_cast<std::size_t>(d.open()->find("abc"))] = "cab";
    d.flags["add_space_prefix"] = false;
    const auto t = d.open();
    EXPECT_EQ(raw(*t, encode(*t, "bbcabc")), (Raw{"b", "bc", "ab", "c"}));
}

TEST(TokenizerSpm, PutsASpaceAfterSpecialTokens) {
    const auto t = spm_draft().open();
    const std::string space(kSpace);
    EXPECT_EQ(raw(*t, encode(*t, "<s>a<tool>b</s>")), (Raw{"<s>", space + "a", "<tool>", space, "b", "</s>"}));
    Draft d = spm_draft();
    d.flags["add_space_prefix"] = false;
    const auto plain = d.open();
    EXPECT_EQ(raw(*plain, encode(*plain, "<s>a<tool>b")), (Raw{"<s>", "a", "<tool>", "b"}));
    EXPECT_EQ(plain->decode(encode(*plain, " a")), " a");
}

TEST(TokenizerSpm, TakesU2581ForASpaceBeforeAnythingElse) {
    Draft d = spm_draft();
    const TokenId two = d.add("  ", kUserDefined);
    const TokenId marked = d.add("<a" + std::string(kSpace) + "b>", kControl);
    d.flags["add_space_prefix"] = false;
    const auto t = d.open();
    EXPECT_EQ(encode(*t, std::string(kSpace) + " "), Ids{two});
    EXPECT_EQ(encode(*t, "<a" + std::string(kSpace) + "b>"), Ids{marked});
    EXPECT_EQ(t->piece(two), "  ");
}

TEST(TokenizerSpm, FallsBackToBytes) {
    Draft d = spm_draft();
    d.flags["add_space_prefix"] = false;
    const auto t = d.open();
    EXPECT_EQ(raw(*t, encode(*t, "\u00e9\u00e8\n")), (Raw{"\u00e9", "<0xC3>", "<0xA8>", "<0x0A>"}));
    EXPECT_EQ(t->piece(t->find("<0x0A>")), "\n");
    EXPECT_EQ(raw(*t, encode(*t, "<0x0A>")).size(), 6u) << "a byte token's name is plain text";
    d.tokens[static_cast<std::size_t>(t->find("<0xC3>"))] = "<none>";
    d.types[static_cast<std::size_t>(t->find("<0xC3>"))] = kNormal;
    const auto lacking = d.open();
    EXPECT_EQ(raw(*lacking, encode(*lacking, "a\u00e8")), (Raw{"a", "<unk>"}));
}

TEST(TokenizerSpm, KeepsAnyBytes) {
    std::mt19937 random(3);
    const auto t = spm_draft().open();
    for (int round = 0; round < 50; ++round) {
        std::string text;
        for (int i = 0; i < 200; ++i) {
            text += round % 2 ? static_cast<char>(random()) : "  abc\xC3\xA9\xE2"[random() % 8];
        }
        EXPECT_EQ(t->decode(encode(*t, text)), text);
    }
}

TEST(TokenizerSpecial, FindsTheLongestFirst) {
    const auto t = bpe_draft().open();
    EXPECT_EQ(raw(*t, encode(*t, "<tool>!<tool>a<|eot|><|eot")),
              (Raw{"<tool>!", "<tool>", "a", "<|eot|>", "<", "|", "e", "o", "t"}));
}

TEST(TokenizerSpecial, ParsesUserDefinedTokensAlways) {
    const auto t = bpe_draft().open();
    EXPECT_EQ(raw(*t, encode(*t, "<tool><s", false)), (Raw{"<tool>", "<", "s"}));
    EXPECT_EQ(encode(*t, "<|eot|>", false).size(), 7u);
    EXPECT_EQ(t->piece(t->find("<tool>")), "<tool>");
    EXPECT_EQ(t->piece(t->find("<|eot|>")), "");
    EXPECT_EQ(t->piece(t->find("<|eot|>"), true), "<|eot|>");
    EXPECT_TRUE(t->is_control(t->find("<|eot|>")));
    EXPECT_FALSE(t->is_control(t->find("<tool>")));
}

TEST(TokenizerSpecial, AddsBosOnceAndOnlyIfAsked) {
    Draft d = bpe_draft();
    EXPECT_EQ(d.open()->encode("x").size(), 1u) << "not in this family";
    d.flags["add_bos_token"] = true;
    const auto t = d.open();
    const TokenId x = 'x';
    EXPECT_EQ(t->encode("x"), (Ids{t->bos(), x}));
    EXPECT_EQ(t->encode("<|bos|>x"), (Ids{t->bos(), x}));
    EXPECT_EQ(t->encode("<|bos|><|bos|>x"), (Ids{t->bos(), t->bos(), x})) << "as written";
    EXPECT_EQ(t->encode(""), Ids{t->bos()});
    EXPECT_EQ(t->encode("<|bos|>"), Ids{t->bos()});
    EXPECT_EQ(encode(*t, "x"), Ids{x});
    d.ids.erase("bos");
    EXPECT_FALSE(d.open()->adds_bos()) << "there is none";
    EXPECT_EQ(d.open()->bos(), -1);
}

TEST(TokenizerSpecial, KnowsWhatEndsAnAnswer) {
    Draft d = bpe_draft();
    d.ids["eot"] = static_cast<std::uint32_t>(d.open()->find("<|eot|>"));
    const TokenId end = d.add("<|end|>");  // wrongly called normal
    d.add("</s>");                         // normal: text
    const TokenId eos = d.add("[EOS]", kControl);
    auto t = d.open();
    EXPECT_EQ(t->eog(), (Ids{t->find("<|eos|>"), t->find("<|eot|>"), end, eos}));
    EXPECT_TRUE(t->is_control(end));
    const TokenId first = d.add("<|return|>", kControl), second = d.add("<|call|>", kControl);
    t = d.open();
    EXPECT_EQ(t->eog(), (Ids{t->find("<|eos|>"), t->find("<|eot|>"), eos, first, second}));
}

TEST(TokenizerSpecial, HidesBosInFilesWithoutTypes) {
    Draft d = spm_draft();
    d.types.clear();
    const auto t = d.open();
    EXPECT_EQ(t->decode(t->encode("ab \u00e8")), "ab \u00e8");
}

TEST(TokenizerFile, NamesWhatIsDamaged) {
    const Draft bpe = bpe_draft(), spm = spm_draft();
    Draft d = bpe;
    d.model = "bert";
    expect_bad(d, "tokenizer.ggml.model 'bert'");
    (d = bpe).pre = "kimi-k2";
    expect_bad(d, "tokenizer.ggml.pre 'kimi-k2' is unknown; known are gpt-2, phi-2");
    (d = bpe).pre.reset();
    expect_bad(d, "tokenizer.ggml.pre is missing");
    (d = bpe).merges.clear();
    expect_bad(d, "tokenizer.ggml.merges is missing");
    for (const char* merge : {"ab", "a ", " ", "", "a zz", "zz a", "c a"}) {
        (d = bpe).merges[2] = merge;
        expect_bad(d, "tokenizer.ggml.merges[2]");
    }
    (d = bpe).types.pop_back();
    expect_bad(d, "tokenizer.ggml.token_type has");
    (d = bpe).types[7] = 9;
    expect_bad(d, "tokenizer.ggml.token_type[7] is 9");
    for (const char* name : {"bos", "eos", "eot", "eom", "unknown"}) {
        (d = bpe).ids[name] = static_cast<std::uint32_t>(d.tokens.size());
        expect_bad(d, fmt::format("tokenizer.ggml.{}_token_id is", name));
    }
    (d = bpe).tokens.clear();
    expect_bad(d, "tokenizer.ggml.tokens");
    (d = spm).scores.pop_back();
    expect_bad(d, "tokenizer.ggml.scores has");
    (d = spm).scores.clear();
    expect_bad(d, "tokenizer.ggml.scores has 0");
    (d = spm).scores[300 - 40] = std::numeric_limits<float>::quiet_NaN();
    expect_bad(d, "tokenizer.ggml.scores[260]");
    d = spm;
    d.add("<0xZZ>", kByte);
    expect_bad(d, "'<0xZZ>' is no byte");
    d = bpe;
    const auto ids = d.open()->encode("ab", {});
    d.flags["add_eos_token"] = true;  // a matter of training
    EXPECT_EQ(d.open()->encode("ab", {}), ids);
}

// Text of the file in an error line is short, and no command to a terminal.
TEST(TokenizerFile, ExcerptsAreSafe) {
    const Draft bpe = bpe_draft();
    const std::string wild = "\x1b[2J\n" + std::string(100000, 'x');
    Draft d = bpe;
    d.model = wild;
    expect_bad(d, "tokenizer.ggml.model '?[2J?xxx");
    (d = bpe).pre = wild;
    expect_bad(d, "tokenizer.ggml.pre '?[2J?xxx");
    (d = bpe).merges[1] = wild;
    expect_bad(d, "tokenizer.ggml.merges[1] '?[2J?xxx");
    (d = bpe).merges[1] = "a " + wild;
    expect_bad(d, "tokenizer.ggml.merges[1] 'a ?[2J?xxx");
    d = spm_draft();
    d.add(wild, kByte);
    expect_bad(d, "'?[2J?xxx");
}

TEST(TokenizerFile, RefusesIdsOutOfRange) {
    const auto t = bpe_draft().open();
    const auto end = static_cast<TokenId>(t->n_vocab());
    EXPECT_THROW(t->piece(-1), Error);
    EXPECT_THROW(t->piece(end), Error);
    EXPECT_THROW(t->raw_token(end), Error);
    EXPECT_THROW(t->decode({end}), Error);
    EXPECT_EQ(t->find("no such token"), -1);
}

TEST(TokenizerSpeed, EncodesAMegabyteInTwoSeconds) {
    for (const auto& draft : {bpe_draft(), bpe_draft("llama-bpe"), bpe_draft("gpt-4o"), spm_draft()}) {
        const auto t = draft.open();
        for (const std::string unit : {"a", " ", "abc", "A", "aB", " \xFF", "<", "\n"}) {
            std::string text;
            while (text.size() < (1 << 20)) text += unit;
            const double begin = cpu_seconds();
            EXPECT_FALSE(encode(*t, text).empty());
            EXPECT_LT(cpu_seconds() - begin, kMostSeconds) << unit;
        }
    }
}

}  // namespace
}  // namespace winnow::test
