// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf.h"

namespace winnow {

using TokenId = std::int32_t;

struct EncodeOptions {
    bool add_bos = true;        ///< prepend BOS if the model asks for one (never twice)
    bool parse_special = true;  ///< control tokens spelled out in the text become their ids
};

/// Text to token ids and back. Immutable after construction; thread-safe.
class Tokenizer {
public:
    /// Reads tokenizer.ggml.*; keeps its own copies, so the file may be closed afterwards.
    /// @throws Error(kBadFile) naming an unknown tokenizer.ggml.model or .pre, or what is damaged.
    static std::unique_ptr<Tokenizer> from_gguf(const GgufFile& file);
    virtual ~Tokenizer() = default;

    /// Ids of `text` (any bytes; invalid UTF-8 survives a round trip, but for missing_bytes()).
    virtual std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const = 0;
    /// Bytes that `id` adds to the text; control tokens give "" unless `special`.
    virtual std::string piece(TokenId id, bool special = false) const = 0;
    /// All pieces joined; SentencePiece drops its one leading space.
    virtual std::string decode(const std::vector<TokenId>& ids, bool special = false) const = 0;

    /// The token as the vocabulary spells it (for `tokenize --pieces`).
    virtual std::string_view raw_token(TokenId id) const = 0;
    virtual std::size_t n_vocab() const = 0;
    virtual TokenId bos() const = 0;  ///< -1 when there is none
    virtual bool adds_bos() const = 0;
    virtual bool is_control(TokenId id) const = 0;
    /// Bytes, ascending, that encode() leaves out: byte-level BPE learnt from a text without them may have no token for
    /// control characters, or for bytes that no UTF-8 has. Empty for SentencePiece, whose unknown token stands for what
    /// it lacks.
    virtual std::string missing_bytes() const = 0;
    /// End-of-generation ids: stop on any of them.
    virtual const std::vector<TokenId>& eog() const = 0;
    /// Id of a token by its spelling, or -1.
    virtual TokenId find(std::string_view token) const = 0;
};

}  // namespace winnow
