// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace winnow {

/// What random texts are made of.
struct TokenPool {
    std::vector<bool> plain;  ///< [n_vocab] tokens that may be drawn: no control tokens, none without a text
    TokenId bos = -1;         ///< begins every text; -1 = nothing does

    explicit TokenPool(const Tokenizer& tokenizer);
    /// Every id below n_vocab, for weights that no tokenizer belongs to.
    explicit TokenPool(std::uint32_t n_vocab) : plain(n_vocab, true) {}
};

/// n uniform random plain tokens.
std::vector<TokenId> random_text(const TokenPool& pool, std::uint32_t n, std::uint32_t seed);

/// Random tokens that repeat themselves.
struct RepeatedText {
    std::vector<TokenId> tokens;
    std::uint32_t first = 0;  ///< of the first copy: what begins every text stands before it
};
/// @param n_tokens in all; the last copy may be cut short.
RepeatedText repeated_text(const TokenPool& pool, std::uint32_t period, std::uint32_t n_tokens, std::uint32_t seed);

/// All that a calibration reads, as token ids.
struct CalibrationInput {
    TokenPool pool;
    std::vector<TokenId> text;
    std::vector<TokenId> needle;  ///< a sentence unlike the text, hidden in it to see which heads find it

    /// At most n tokens of the text from token `from` on, begun like every text; empty where nothing is left of it.
    std::vector<TokenId> later_text(std::size_t from, std::size_t n) const;

    CalibrationInput(const Tokenizer& tokenizer, std::string_view text);
    /// Random ids in place of a text: what a calibration costs does not depend on them.
    CalibrationInput(std::uint32_t n_vocab, std::uint32_t n_tokens);
};

}  // namespace winnow
