// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <variant>

#include "models/tokenizer_bpe.h"
#include "models/tokenizer_spm.h"
#include "runtime/io/safe_path.h"

namespace winnow {
namespace {

constexpr TokenId kNone = -1;

enum class TokenType : std::uint8_t {  // GGUF's values
    kUndefined = 0,
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
};

[[noreturn]] void fail(const GgufFile& file, const std::string& what) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("'{}': {}; download it again or choose another model", safe_path(file.path()), what));
}

// Tokens that end an answer. The first list holds spellings that no plain text has: such a token is
// one even if the file calls it normal. Those of the second are ordinary text in some vocabularies
// (Gemma's </s> is an HTML tag), so the file must call them control tokens.
constexpr std::string_view kEndTokens[] = {
    "<|eot_id|>",    "<|im_end|>",       "<|end|>",
    "<|return|>",    "<|call|>",         "<|flush|>",
    "<|calls|>",     "<end_of_turn>",    "<|endoftext|>",
    "<|eom_id|>",    "<|end_of_text|>",  "<end_of_utterance>",
    "<turn|>",       "<|tool_response>", "<｜end▁of▁sentence｜>",
    "[e~[",          "<|fim_pad|>",      "<|fim_repo|>",
    "<|repo_name|>", "<|file_sep|>",
};
constexpr std::string_view kEndControlTokens[] = {
    "</s>",      "<eos>", "<EOT>", "_<EOT>",     "[EOT]",  "[EOS]",      "<fim-pad>",
    "<fim_pad>", "<PAD>", "[PAD]", "<fim-repo>", "<REPO>", "<reponame>",
};

// What the file says about its tokens.
struct Vocabulary {
    std::vector<std::string> tokens;
    std::vector<TokenType> types;
    TokenIds ids;  // views of `tokens`

    TokenId find(std::string_view token) const {
        const auto found = ids.find(token);
        return found == ids.end() ? kNone : found->second;
    }
};

Vocabulary read_vocabulary(const GgufFile& file) {
    const GgufArray* tokens = file.find_array("tokenizer.ggml.tokens");
    if (!tokens || tokens->strings.empty()) fail(file, "tokenizer.ggml.tokens has no strings");
    const std::size_t n = tokens->strings.size();
    Vocabulary v;
    v.tokens.assign(tokens->strings.begin(), tokens->strings.end());
    v.types.assign(n, TokenType::kNormal);
    if (const GgufArray* types = file.find_array("tokenizer.ggml.token_type")) {
        if (types->integers.size() != n) {
            fail(file,
                 fmt::format("tokenizer.ggml.token_type has {} integers for {} tokens", types->integers.size(), n));
        }
        for (std::size_t i = 0; i < n; ++i) {
            const std::int64_t type = types->integers[i];
            if (type < 0 || type > 6) {
                fail(file, fmt::format("tokenizer.ggml.token_type[{}] is {}", i, type));
            }
            v.types[i] = static_cast<TokenType>(type);
        }
    }
    v.ids.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
        v.ids.try_emplace(v.tokens[i], static_cast<TokenId>(i));
    }
    return v;
}

TokenId read_id(const GgufFile& file, std::string_view name, std::size_t n_vocab) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    const auto id = file.find_uint(key);
    if (!id) return kNone;
    if (*id >= n_vocab) fail(file, fmt::format("{} is {} of {} tokens", key, *id, n_vocab));
    return static_cast<TokenId>(*id);
}

BpeEncoder make_bpe(const GgufFile& file, const Vocabulary& v) {
    const auto pre = file.find_string("tokenizer.ggml.pre");
    if (!pre) fail(file, "tokenizer.ggml.pre is missing");
    const GgufArray* merges = file.find_array("tokenizer.ggml.merges");
    if (!merges) fail(file, "tokenizer.ggml.merges is missing");
    if (merges->strings.size() != merges->size()) {
        fail(file, "tokenizer.ggml.merges does not hold strings");
    }
    try {
        PreTokenizer pre_tokenizer(*pre);
        TokenIds text_tokens;
        for (const auto& [token, id] : v.ids) {
            const bool hidden = v.types[id] == TokenType::kControl || v.types[id] == TokenType::kUnknown;
            if (pre_tokenizer.ignores_merges() && !hidden) text_tokens.emplace(token, id);
        }
        return BpeEncoder(v.ids, std::move(text_tokens), merges->strings, std::move(pre_tokenizer));
    } catch (const Error& e) {
        if (e.code() != ErrorCode::kBadFile) throw;
        fail(file, e.what());
    }
}

// Byte of a token spelled "<0x0A>", or -1.
int byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return -1;
    int byte = -1;
    const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
    return error == std::errc() && end == token.data() + 5 ? byte : -1;
}

SpmEncoder make_spm(const GgufFile& file, Vocabulary& v, TokenId unknown) {
    const GgufArray* scores = file.find_array("tokenizer.ggml.scores");
    const std::size_t n_scores = scores ? scores->floats.size() : 0;
    if (n_scores != v.tokens.size()) {
        fail(file, fmt::format("tokenizer.ggml.scores has {} floats for {} tokens", n_scores, v.tokens.size()));
    }
    std::array<TokenId, 256> byte_ids;
    for (unsigned byte = 0; byte < 256; ++byte) {
        byte_ids[byte] = v.find(fmt::format("<0x{:02X}>", byte));
    }
    // Some files call their byte tokens normal, which would print them as they are spelled.
    for (const TokenId id : byte_ids) {
        if (id != kNone) v.types[id] = TokenType::kByte;
    }
    std::vector<SpmEncoder::Token> tokens;
    for (std::size_t i = 0; i < v.tokens.size(); ++i) {
        if (v.types[i] == TokenType::kByte && byte_of(v.tokens[i]) < 0) {
            fail(file, fmt::format("tokenizer.ggml.tokens[{}] '{}' is no byte", i, safe_excerpt(v.tokens[i])));
        }
        if (std::isnan(scores->floats[i])) {
            fail(file, fmt::format("tokenizer.ggml.scores[{}] is not a number", i));
        }
        const TokenType type = v.types[i];
        if (type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kByte ||
            v.tokens[i].empty()) {
            continue;
        }
        tokens.push_back({v.tokens[i], static_cast<TokenId>(i), static_cast<float>(scores->floats[i])});
    }
    return SpmEncoder(tokens, byte_ids, unknown);
}

// Finds special tokens in text: a trie whose edges are keyed by node << 8 | byte.
class SpecialTokens {
public:
    struct Match {
        TokenId id = kNone;
        std::size_t size = 0;
    };

    void add(std::string_view token, TokenId id, bool is_control) {
        if (token.empty()) return;
        std::uint64_t node = 0;
        for (const char c : token) {
            const auto next = edges_.try_emplace(edge(node, c), nodes_.size());
            node = next.first->second;
            if (next.second) nodes_.emplace_back();
        }
        if (nodes_[node].id == kNone) nodes_[node] = {id, is_control};
        begins_[static_cast<unsigned char>(token[0])] = true;
    }

    // The longest token that `text` starts with; control tokens only if `parse_control`.
    Match longest(std::string_view text, bool parse_control) const {
        Match best;
        if (!begins_[static_cast<unsigned char>(text[0])]) return best;
        std::uint64_t node = 0;
        for (std::size_t i = 0; i < text.size(); ++i) {
            const auto next = edges_.find(edge(node, text[i]));
            if (next == edges_.end()) break;
            node = next->second;
            const Node& n = nodes_[node];
            if (n.id != kNone && (parse_control || !n.is_control)) best = {n.id, i + 1};
        }
        return best;
    }

private:
    struct Node {
        TokenId id = kNone;
        bool is_control = false;
    };
    static std::uint64_t edge(std::uint64_t node, char c) { return node << 8 | static_cast<unsigned char>(c); }
    std::vector<Node> nodes_{1};
    std::unordered_map<std::uint64_t, std::uint64_t> edges_;
    std::array<bool, 256> begins_{};
};

class GgufTokenizer final : public Tokenizer {
public:
    explicit GgufTokenizer(const GgufFile& file) : vocabulary_(read_vocabulary(file)) {
        const std::string_view model = file.get_string("tokenizer.ggml.model");
        const bool is_spm = model == "llama";
        if (!is_spm && model != "gpt2") {
            fail(file, fmt::format("tokenizer.ggml.model '{}' is unknown; known are gpt2, llama", safe_excerpt(model)));
        }
        read_special_ids(file, is_spm);
        if (is_spm) {
            encoder_.emplace<SpmEncoder>(make_spm(file, vocabulary_, unknown_));
            adds_bos_ = true;
            add_space_prefix_ = file.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
        } else {
            adds_bos_ = encoder_.emplace<BpeEncoder>(make_bpe(file, vocabulary_)).adds_bos();
        }
        // tokenizer.ggml.add_eos_token is left alone: it is for training, and a prompt that ends in EOS is one that
        // nothing follows.
        adds_bos_ = bos_ != kNone && file.find_bool("tokenizer.ggml.add_bos_token").value_or(adds_bos_);
        for (TokenId id = 0; static_cast<std::size_t>(id) < n_vocab(); ++id) {
            if (is_hidden(id) || type(id) == TokenType::kUserDefined) {
                const std::string& token = vocabulary_.tokens[id];
                special_.add(is_spm ? SpmEncoder::decode(token) : token, id, is_hidden(id));
            }
        }
    }

    // Left to right, at each place the longest special token, as the models' own tokenizers do it.
    std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override {
        // SentencePiece takes U+2581 for a space, also where it looks for user-defined tokens.
        std::string spaced;
        if (std::holds_alternative<SpmEncoder>(encoder_)) text = spaced = SpmEncoder::decode(text);
        std::vector<TokenId> ids;
        const bool wants_bos = options.add_bos && adds_bos_;
        if (wants_bos) ids.push_back(bos_);
        std::size_t done = 0;
        const auto encode_until = [&](std::size_t end) {
            if (end > done) encode_text(text.substr(done, end - done), ids);
        };
        for (std::size_t at = 0; at < text.size();) {
            const auto match = special_.longest(text.substr(at), options.parse_special);
            if (match.id == kNone) {
                ++at;
                continue;
            }
            encode_until(at);
            ids.push_back(match.id);
            at += match.size;
            done = at;
        }
        encode_until(text.size());
        if (wants_bos && ids.size() > 1 && ids[1] == bos_) ids.erase(ids.begin());
        return ids;
    }

    std::string piece(TokenId id, bool special) const override {
        check(id);
        return is_hidden(id) && !special ? std::string() : text_of(id);
    }

    std::string decode(const std::vector<TokenId>& ids, bool special) const override {
        std::string text;
        for (const TokenId id : ids) text += piece(id, special);
        if (add_space_prefix_ && text.starts_with(' ')) text.erase(0, 1);
        return text;
    }

    std::string_view raw_token(TokenId id) const override {
        check(id);
        return vocabulary_.tokens[id];
    }
    std::size_t n_vocab() const override { return vocabulary_.tokens.size(); }
    TokenId bos() const override { return bos_; }
    bool adds_bos() const override { return adds_bos_; }
    bool is_control(TokenId id) const override {
        check(id);
        return type(id) == TokenType::kControl;
    }
    std::string missing_bytes() const override {
        const auto* bpe = std::get_if<BpeEncoder>(&encoder_);
        return bpe != nullptr ? bpe->missing_bytes() : std::string();
    }
    const std::vector<TokenId>& eog() const override { return eog_; }
    TokenId find(std::string_view token) const override { return vocabulary_.find(token); }

private:
    TokenType type(TokenId id) const { return vocabulary_.types[id]; }
    bool is_hidden(TokenId id) const { return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown; }
    void check(TokenId id) const {
        if (id >= 0 && static_cast<std::size_t>(id) < n_vocab()) return;
        throw Error(ErrorCode::kInvalidArgument, fmt::format("token {} is not one of the model's {}", id, n_vocab()));
    }

    // `text` stands at the start or after a special token: SentencePiece prefixes a space to both.
    void encode_text(std::string_view text, std::vector<TokenId>& ids) const {
        if (const auto* spm = std::get_if<SpmEncoder>(&encoder_)) {
            spm->encode(text, add_space_prefix_, ids);
        } else {
            std::get<BpeEncoder>(encoder_).encode(text, ids);
        }
    }

    // Text that the token stands for, hidden or not.
    std::string text_of(TokenId id) const {
        const std::string& token = vocabulary_.tokens[id];
        const bool is_spm = std::holds_alternative<SpmEncoder>(encoder_);
        switch (type(id)) {
            case TokenType::kControl:
            case TokenType::kUnknown: return token;
            case TokenType::kByte:
                return is_spm ? std::string(1, static_cast<char>(byte_of(token))) : BpeEncoder::decode(token);
            case TokenType::kUserDefined: return is_spm ? SpmEncoder::decode(token) : token;
            default: return is_spm ? SpmEncoder::decode(token) : BpeEncoder::decode(token);
        }
    }

    void read_special_ids(const GgufFile& file, bool is_spm) {
        const auto id_or = [&](std::string_view name, TokenId fallback) {
            const TokenId id = read_id(file, name, n_vocab());
            return id != kNone || static_cast<std::size_t>(fallback) >= n_vocab() ? id : fallback;
        };
        bos_ = id_or("bos", is_spm ? 1 : kNone);
        eos_ = id_or("eos", is_spm ? 2 : kNone);
        unknown_ = id_or("unknown", is_spm ? 0 : kNone);
        std::set<TokenId> eog{eos_, read_id(file, "eot", n_vocab()), read_id(file, "eom", n_vocab())};
        eog.erase(kNone);
        const bool has_types = file.find_array("tokenizer.ggml.token_type") != nullptr;
        if (!has_types) {  // else BOS would be printed as text
            for (const TokenId id : {bos_, eos_, unknown_}) {
                if (id != kNone) vocabulary_.types[id] = TokenType::kControl;
            }
        }
        for (const std::string_view token : kEndTokens) {
            const TokenId id = find(token);
            if (id == kNone) continue;
            vocabulary_.types[id] = TokenType::kControl;
            eog.insert(id);
        }
        for (const std::string_view token : kEndControlTokens) {
            const TokenId id = find(token);
            if (id != kNone && type(id) == TokenType::kControl) eog.insert(id);
        }
        // Models that end a message, but not the answer, with <|end|> (gpt-oss, solar); and gemma4.
        const auto has = [&](std::string_view token) { return eog.contains(find(token)); };
        if ((has("<|return|>") && has("<|call|>")) || (has("<|calls|>") && has("<|flush|>"))) {
            eog.erase(find("<|end|>"));
        }
        if (has("<|tool_response>")) eog.erase(find("</s>"));
        eog_.assign(eog.begin(), eog.end());
    }

    Vocabulary vocabulary_;
    std::variant<std::monostate, SpmEncoder, BpeEncoder> encoder_;  // views of vocabulary_
    SpecialTokens special_;
    TokenId bos_ = kNone;
    TokenId eos_ = kNone;
    TokenId unknown_ = kNone;
    std::vector<TokenId> eog_;
    bool adds_bos_ = false;
    bool add_space_prefix_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_gguf(const GgufFile& file) { return std::make_unique<GgufTokenizer>(file); }

}  // namespace winnow
