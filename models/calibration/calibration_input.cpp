// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/calibration_input.h"

#include <algorithm>
#include <random>

#include "winnow/error.h"

namespace winnow {
namespace {

constexpr const char* kNeedle = " The secret number of the seventh lantern is 48213, and it burns green over the mill.";
constexpr std::uint32_t kNeedleTokens = 24;  // about what the sentence takes in the vocabularies of today
constexpr std::uint32_t kTextSeed = 1, kNeedleSeed = 2;
constexpr EncodeOptions kBegins{.add_bos = true, .parse_special = false},
    kGoesOn{.add_bos = false, .parse_special = false};

}  // namespace

TokenPool::TokenPool(const Tokenizer& tokenizer) : plain(tokenizer.n_vocab()) {
    for (std::size_t i = 0; i < plain.size(); ++i) {
        const auto id = static_cast<TokenId>(i);
        plain[i] = !tokenizer.is_control(id) && !tokenizer.piece(id).empty();
    }
    if (std::find(plain.begin(), plain.end(), true) == plain.end())
        throw Error(ErrorCode::kBadFile, "the vocabulary has no token with a text");
    if (tokenizer.adds_bos()) bos = tokenizer.bos();
}

std::vector<TokenId> random_text(const TokenPool& pool, std::uint32_t n, std::uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<TokenId> ids;
    while (ids.size() < n) {
        const std::size_t id = random() % pool.plain.size();
        if (pool.plain[id]) ids.push_back(static_cast<TokenId>(id));
    }
    return ids;
}

RepeatedText repeated_text(const TokenPool& pool, std::uint32_t period, std::uint32_t n_tokens, std::uint32_t seed) {
    RepeatedText out;
    if (pool.bos >= 0) out.tokens.push_back(pool.bos);
    out.first = static_cast<std::uint32_t>(out.tokens.size());
    const std::vector<TokenId> ids = random_text(pool, period, seed);
    for (std::uint32_t i = 0; out.tokens.size() < n_tokens; ++i) out.tokens.push_back(ids[i % period]);
    return out;
}

std::vector<TokenId> CalibrationInput::later_text(std::size_t from, std::size_t n) const {
    std::vector<TokenId> out;
    if (from >= text.size() || n == 0) return out;
    if (pool.bos >= 0) out.push_back(pool.bos);
    for (std::size_t i = from; i < text.size() && out.size() < n; ++i) out.push_back(text[i]);
    return out;
}

CalibrationInput::CalibrationInput(const Tokenizer& tokenizer, std::string_view words)
    : pool(tokenizer), text(tokenizer.encode(words, kBegins)), needle(tokenizer.encode(kNeedle, kGoesOn)) {}

CalibrationInput::CalibrationInput(std::uint32_t n_vocab, std::uint32_t n_tokens)
    : pool(n_vocab),
      text(random_text(pool, n_tokens, kTextSeed)),
      needle(random_text(pool, kNeedleTokens, kNeedleSeed)) {}

}  // namespace winnow
