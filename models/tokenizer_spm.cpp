// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizer_spm.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>

namespace winnow {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581
constexpr std::int32_t kNone = -1;

struct Symbol {
    std::int64_t begin;
    std::int32_t size;  // bytes; 0 = merged into the symbol before
    std::int32_t prev, next;
    TokenId id;  // kNone = not looked up
};

struct Candidate {
    float score;
    std::int32_t left;
    std::int32_t size;  // of both; stale once their sizes have another sum
    TokenId id;
    bool operator<(const Candidate& o) const {  // the heap's top: best score, leftmost
        return score != o.score ? score < o.score : left > o.left;
    }
};

std::string escape_spaces(std::string_view text, bool space_prefix) {
    std::string out;
    out.reserve(text.size() + text.size() / 4 + kSpace.size());
    if (space_prefix) out += kSpace;
    for (const char c : text) {
        if (c == ' ') {
            out += kSpace;
        } else {
            out += c;
        }
    }
    return out;
}

// One symbol a code point; a byte that starts none is one by itself.
std::vector<Symbol> split_code_points(std::string_view text) {
    std::vector<Symbol> symbols;
    for (std::size_t at = 0; at < text.size();) {
        utf8proc_int32_t code_point;
        const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                                        static_cast<utf8proc_ssize_t>(text.size() - at), &code_point);
        const std::int32_t size = n > 0 ? static_cast<std::int32_t>(n) : 1;
        const auto index = static_cast<std::int32_t>(symbols.size());
        symbols.push_back({static_cast<std::int64_t>(at), size, index - 1, index + 1, kNone});
        at += static_cast<std::size_t>(size);
    }
    if (!symbols.empty()) symbols.back().next = kNone;
    return symbols;
}

}  // namespace

SpmEncoder::SpmEncoder(const std::vector<Token>& tokens, const std::array<TokenId, 256>& byte_ids, TokenId unknown)
    : byte_ids_(byte_ids), unknown_(unknown) {
    tokens_.reserve(tokens.size());
    for (const Token& token : tokens) {
        tokens_.try_emplace(token.text, Scored{token.id, token.score});
        longest_ = std::max(longest_, token.text.size());
    }
}

const SpmEncoder::Scored* SpmEncoder::find(std::string_view text) const {
    if (text.size() > longest_) return nullptr;
    const auto found = tokens_.find(text);
    return found == tokens_.end() ? nullptr : &found->second;
}

void SpmEncoder::encode(std::string_view text, bool space_prefix, std::vector<TokenId>& out) const {
    if (text.empty()) return;
    const std::string escaped = escape_spaces(text, space_prefix);
    const std::string_view whole = escaped;
    std::vector<Symbol> symbols = split_code_points(whole);
    std::vector<Candidate> heap;
    const auto push = [&](std::int32_t left, std::int32_t right) {
        if (left == kNone || right == kNone) return false;
        const std::int32_t size = symbols[left].size + symbols[right].size;
        const Scored* token =
            find(whole.substr(static_cast<std::size_t>(symbols[left].begin), static_cast<std::size_t>(size)));
        if (token) heap.push_back({token->score, left, size, token->id});
        return token != nullptr;
    };
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        push(static_cast<std::int32_t>(i), static_cast<std::int32_t>(i) + 1);
    }
    std::make_heap(heap.begin(), heap.end());
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end());
        const Candidate best = heap.back();
        heap.pop_back();
        Symbol& left = symbols[best.left];
        if (left.size == 0 || left.next == kNone) continue;
        Symbol& right = symbols[left.next];
        if (left.size + right.size != best.size) continue;
        left.size = best.size;
        left.id = best.id;
        left.next = right.next;
        right.size = 0;
        if (left.next != kNone) symbols[left.next].prev = best.left;
        if (push(left.prev, best.left)) std::push_heap(heap.begin(), heap.end());
        if (push(best.left, left.next)) std::push_heap(heap.begin(), heap.end());
    }
    for (const Symbol& symbol : symbols) {
        if (symbol.size == 0) continue;
        if (symbol.id != kNone) {
            out.push_back(symbol.id);
        } else {
            append_leftover(whole.substr(static_cast<std::size_t>(symbol.begin), static_cast<std::size_t>(symbol.size)),
                            out);
        }
    }
}

void SpmEncoder::append_leftover(std::string_view text, std::vector<TokenId>& out) const {
    if (const Scored* token = find(text)) {
        out.push_back(token->id);
        return;
    }
    const bool has_bytes =
        std::all_of(text.begin(), text.end(), [&](char c) { return byte_ids_[static_cast<std::uint8_t>(c)] != kNone; });
    if (has_bytes) {
        for (const char c : text) out.push_back(byte_ids_[static_cast<std::uint8_t>(c)]);
    } else if (unknown_ != kNone) {
        out.push_back(unknown_);
    }
}

std::string SpmEncoder::decode(std::string_view token) {
    std::string out;
    while (!token.empty()) {
        const std::size_t at = token.find(kSpace);
        out += token.substr(0, at);
        if (at == token.npos) break;
        out += ' ';
        token.remove_prefix(at + kSpace.size());
    }
    return out;
}

}  // namespace winnow
