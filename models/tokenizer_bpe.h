// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/pre_tokenizer.h"
#include "models/tokenizer.h"

namespace winnow {

/// Ids by spelling; the keys are views of the vocabulary's strings.
using TokenIds = std::unordered_map<std::string_view, TokenId>;

/// Byte-level BPE (GPT-2 and after) on text without special tokens. Immutable; thread-safe.
class BpeEncoder {
public:
    /// @param tokens the whole vocabulary. @param text_tokens what a piece may become at once (no
    /// control tokens). @param merges "left right" in order of rank.
    /// @throws Error(kBadFile) naming a bad merge.
    BpeEncoder(const TokenIds& tokens, TokenIds text_tokens, const std::vector<std::string_view>& merges,
               PreTokenizer pre);

    /// Appends the ids of `text`. Bytes for which the vocabulary has no token are left out, as by the models' own
    /// tokenizers.
    void encode(std::string_view text, std::vector<TokenId>& out) const;
    /// Bytes of a token as the vocabulary spells it.
    static std::string decode(std::string_view token);

    bool adds_bos() const { return pre_.adds_bos(); }
    /// Bytes for which the vocabulary has no token, ascending.
    std::string missing_bytes() const;

private:
    struct Merge {
        std::uint32_t rank;
        TokenId result;
    };
    struct Work;
    const Merge* find_merge(TokenId left, TokenId right) const;
    void encode_piece(std::string_view piece, Work& work, std::vector<TokenId>& out) const;
    void merge_short(Work& work) const;
    void merge_long(Work& work) const;

    TokenIds text_tokens_;
    std::unordered_map<std::uint64_t, Merge> merges_;  ///< by left id << 32 | right id
    std::array<TokenId, 256> byte_ids_;                ///< -1 = none
    PreTokenizer pre_;
};

}  // namespace winnow
