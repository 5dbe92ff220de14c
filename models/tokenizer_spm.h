// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/tokenizer.h"

namespace winnow {

/// SentencePiece's BPE (merge what is a token, best score first) with byte fallback, on text
/// without special tokens. Immutable; thread-safe.
class SpmEncoder {
public:
    struct Token {
        std::string_view text;  ///< as the vocabulary spells it; the owner keeps it alive
        TokenId id;
        float score;
    };
    /// @param byte_ids token of each byte, -1 = none. @param unknown for what has no token, or -1.
    SpmEncoder(const std::vector<Token>& tokens, const std::array<TokenId, 256>& byte_ids, TokenId unknown);

    /// Appends the ids of `text`. @param space_prefix as if the text started with one space more.
    void encode(std::string_view text, bool space_prefix, std::vector<TokenId>& out) const;
    /// Text of a token as the vocabulary spells it: U+2581 is a space.
    static std::string decode(std::string_view token);

private:
    struct Scored {
        TokenId id;
        float score;
    };
    const Scored* find(std::string_view text) const;
    void append_leftover(std::string_view text, std::vector<TokenId>& out) const;

    std::unordered_map<std::string_view, Scored> tokens_;
    std::size_t longest_ = 0;  ///< bytes
    std::array<TokenId, 256> byte_ids_;
    TokenId unknown_;
};

}  // namespace winnow
