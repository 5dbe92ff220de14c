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

/// All that a calibration reads, as token ids.
struct CalibrationInput {
    TokenPool pool;
    std::vector<TokenId> text;
    std::vector<TokenId> needle;  ///< a sentence unlike the text, hidden in it to see which heads find it

    CalibrationInput(const Tokenizer& tokenizer, std::string_view text);
    /// Random ids in place of a text: what a calibration costs does not depend on them.
    CalibrationInput(std::uint32_t n_vocab, std::uint32_t n_tokens);
};

}  // namespace winnow
