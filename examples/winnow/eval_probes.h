// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "models/tokenizer.h"

namespace winnow::program {

/// Tokens to prefill and, after them, questions whose answers are scored: small stand-ins for the
/// recall tasks of the literature (needle, multi-key, copy, aggregation), scored by likelihood,
/// never by generation.
struct Probe {
    struct Question {
        std::string kind;             ///< "single", "multi_key", "block_edge", "open_block", "start", "copy",
                                      ///< "aggregate"
        std::vector<TokenId> query;   ///< decoded first, not scored
        std::vector<TokenId> answer;  ///< scored
    };
    std::vector<TokenId> context;
    std::vector<Question> questions;
    std::size_t n_tokens() const;  ///< with its longest question
};

/// Facts ("The code for X is 48213.") hidden in `filler`: near position 0, in the middle, across a
/// block's edge, among others like it, and in the block that is still open. `n_tokens` long.
Probe make_needle_probe(const Tokenizer& tokenizer, const std::vector<TokenId>& filler, std::uint32_t n_tokens,
                        std::uint32_t seed);

/// Random tokens, filler, and the same random tokens again.
Probe make_copy_probe(const Tokenizer& tokenizer, const std::vector<TokenId>& filler, std::uint32_t n_tokens,
                      std::uint32_t seed);

/// A list of words in which one is the most frequent, then the question which: attention must be
/// spread.
Probe make_aggregate_probe(const Tokenizer& tokenizer, std::uint32_t n_tokens, std::uint32_t seed);

}  // namespace winnow::program
