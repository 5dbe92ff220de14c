// SPDX-License-Identifier: Apache-2.0
#include "models/text_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace winnow::test {
namespace {

// Token i is pieces[i].
class PieceTokenizer final : public Tokenizer {
public:
    explicit PieceTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}
    std::vector<TokenId> encode(std::string_view, const EncodeOptions&) const override { return {}; }
    std::string piece(TokenId id, bool) const override { return pieces_.at(id); }
    std::string decode(const std::vector<TokenId>&, bool) const override { return {}; }
    std::string_view raw_token(TokenId id) const override { return pieces_.at(id); }
    std::size_t n_vocab() const override { return pieces_.size(); }
    TokenId bos() const override { return -1; }
    bool adds_bos() const override { return false; }
    bool is_control(TokenId) const override { return false; }
    std::string missing_bytes() const override { return {}; }
    const std::vector<TokenId>& eog() const override { return eog_; }
    TokenId find(std::string_view) const override { return -1; }

private:
    std::vector<std::string> pieces_;
    std::vector<TokenId> eog_;
};

// What push() gives for each piece, then what flush() gives.
std::vector<std::string> stream(const std::vector<std::string>& pieces, const std::vector<std::string>& stops = {},
                                bool* finished = nullptr) {
    const PieceTokenizer tokenizer(pieces);
    TextStream stream(tokenizer, stops);
    std::vector<std::string> out;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        out.push_back(stream.push(static_cast<TokenId>(i)));
    }
    out.push_back(stream.flush());
    if (finished) *finished = stream.finished();
    return out;
}

using Texts = std::vector<std::string>;

TEST(TextStream, PassesTextOn) { EXPECT_EQ(stream({"Hello", "", " world"}), (Texts{"Hello", "", " world", ""})); }

TEST(TextStream, HoldsIncompleteCodePoints) {
    EXPECT_EQ(stream({"a\xF0", "\x9F",
                      "\x98\x80"
                      "b",
                      "\xC3", "\xA9"}),
              (Texts{"a", "",
                     "\xF0\x9F\x98\x80"
                     "b",
                     "", "\xC3\xA9", ""}));
}

TEST(TextStream, LetsInvalidBytesThrough) {
    EXPECT_EQ(stream({"\xFF", "\x80\x80", "\xC0", "\xE2", "x"}), (Texts{"\xFF", "\x80\x80", "\xC0", "", "\xE2x", ""}));
    EXPECT_EQ(stream({"ok\xE2\x96"}), (Texts{"ok", "\xE2\x96"})) << "flush gives what is left";
}

TEST(TextStream, StopsAcrossTokens) {
    bool finished = false;
    EXPECT_EQ(stream({"one <", "st", "op> two", "three"}, {"<stop>"}, &finished), (Texts{"one ", "", "", "", ""}));
    EXPECT_TRUE(finished);
}

TEST(TextStream, ReleasesAFalseStart) {
    bool finished = true;
    EXPECT_EQ(stream({"a<", "s", "t!", "<st"}, {"<stop>"}, &finished), (Texts{"a", "", "<st!", "", "<st"}));
    EXPECT_FALSE(finished);
}

TEST(TextStream, RestartsInsideAFalseStart) {
    EXPECT_EQ(stream({"aa", "a", "b", "c"}, {"aab"}), (Texts{"", "a", "", "", ""}));
}

TEST(TextStream, TakesTheEarliestStop) {
    bool finished = false;
    EXPECT_EQ(stream({"x END y STOP z"}, {"STOP", "END", ""}, &finished), (Texts{"x ", ""}));
    EXPECT_TRUE(finished);
    EXPECT_EQ(stream({"STOP"}, {"STOP"}), (Texts{"", ""}));
    EXPECT_EQ(stream({"ab", "c"}, {"abcd", "b"}), (Texts{"a", "", ""}));
}

TEST(TextStream, StopsInsideCodePointsOfOtherScripts) {
    const std::string stop = "\u7ec8";  // three bytes
    EXPECT_EQ(stream({"\u7ec7", stop.substr(0, 2), stop.substr(2)}, {stop}), (Texts{"\u7ec7", "", "", ""}));
}

}  // namespace
}  // namespace winnow::test
