// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizer_bpe.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

#include "models/gguf.h"
#include "winnow/error.h"

namespace winnow {
namespace {

constexpr std::int32_t kNone = -1;
constexpr std::size_t kShortPiece = 24;       // up to here rescanning beats a heap
constexpr std::size_t kLongestCached = 64;    // bytes; longer pieces hardly ever come again
constexpr std::size_t kMostCached = 1 << 14;  // pieces

// GPT-2 spells each byte as a printable character: itself if it is printable Latin-1, else one of
// U+0100, U+0101, ... in the order of the bytes.
struct ByteAlphabet {
    std::array<std::string, 256> spelled;
    std::array<int, 0x144> byte_of;  // by code point; -1 = none

    ByteAlphabet() {
        byte_of.fill(-1);
        std::int32_t next = 0x100;
        for (int byte = 0; byte < 256; ++byte) {
            const bool printable =
                (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
            const std::int32_t code_point = printable ? byte : next++;
            utf8proc_uint8_t text[4];
            const auto n = utf8proc_encode_char(code_point, text);
            spelled[byte].assign(reinterpret_cast<const char*>(text), static_cast<std::size_t>(n));
            byte_of[code_point] = byte;
        }
    }
};

const ByteAlphabet& alphabet() {
    static const ByteAlphabet instance;
    return instance;
}

std::uint64_t pair_key(TokenId left, TokenId right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

// Kept from piece to piece: most pieces are a few bytes, and allocation would cost more than they.
struct BpeEncoder::Work {
    struct Symbol {
        TokenId id;  // kNone = a byte without a token, or merged into the symbol before
        std::int32_t prev, next;
    };
    struct Candidate {
        std::uint32_t rank;
        std::int32_t left;
        TokenId left_id, right_id, result;          // stale once the symbols have other ids
        bool operator<(const Candidate& o) const {  // the heap's top is the lowest rank, leftmost
            return std::tie(rank, left) > std::tie(o.rank, o.left);
        }
    };
    std::vector<Symbol> symbols;
    std::vector<TokenId> ids;
    std::vector<Candidate> heap;
    std::string spelled;
};

BpeEncoder::BpeEncoder(const TokenIds& tokens, TokenIds text_tokens, const std::vector<std::string_view>& merges,
                       PreTokenizer pre)
    : text_tokens_(std::move(text_tokens)), pre_(std::move(pre)) {
    const auto id_of = [&](std::string_view token) {
        const auto found = tokens.find(token);
        return found == tokens.end() ? kNone : found->second;
    };
    for (std::size_t byte = 0; byte < 256; ++byte) {
        byte_ids_[byte] = id_of(alphabet().spelled[byte]);
    }
    merges_.reserve(merges.size());
    std::string joined;
    for (std::size_t i = 0; i < merges.size(); ++i) {
        const std::string_view merge = merges[i];
        // The first byte may be a space that belongs to the left side.
        const std::size_t space = merge.find(' ', 1);
        if (merge.empty() || space == merge.npos || space + 1 == merge.size()) {
            throw Error(ErrorCode::kBadFile,
                        fmt::format("tokenizer.ggml.merges[{}] '{}' is not two tokens", i, safe_excerpt(merge)));
        }
        const TokenId left = id_of(merge.substr(0, space));
        const TokenId right = id_of(merge.substr(space + 1));
        joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
        const TokenId result = id_of(joined);
        if (left == kNone || right == kNone || result == kNone) {
            throw Error(
                ErrorCode::kBadFile,
                fmt::format("tokenizer.ggml.merges[{}] '{}': '{}' is not in the vocabulary", i, safe_excerpt(merge),
                            safe_excerpt(left == kNone    ? merge.substr(0, space)
                                         : right == kNone ? merge.substr(space + 1)
                                                          : std::string_view(joined))));
        }
        merges_.try_emplace(pair_key(left, right), Merge{static_cast<std::uint32_t>(i), result});
    }
}

const BpeEncoder::Merge* BpeEncoder::find_merge(TokenId left, TokenId right) const {
    const auto found = merges_.find(pair_key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
}

void BpeEncoder::encode(std::string_view text, std::vector<TokenId>& out) const {
    Work work;
    // Text repeats its words: where in `out` the ids of a piece stand. Kept for this call only, so
    // that the encoder needs no lock.
    struct Seen {
        std::size_t begin, size;
    };
    std::unordered_map<std::string_view, Seen> seen;
    for (const std::string_view piece : pre_.split(text)) {
        const bool is_cached = piece.size() > 1 && piece.size() <= kLongestCached;
        if (const auto found = is_cached ? seen.find(piece) : seen.end(); found != seen.end()) {
            for (std::size_t i = 0; i < found->second.size; ++i) {
                const TokenId id = out[found->second.begin + i];  // push_back() may move `out`
                out.push_back(id);
            }
            continue;
        }
        const std::size_t begin = out.size();
        encode_piece(piece, work, out);
        if (is_cached && seen.size() < kMostCached) {
            seen.emplace(piece, Seen{begin, out.size() - begin});
        }
    }
}

void BpeEncoder::encode_piece(std::string_view piece, Work& work, std::vector<TokenId>& out) const {
    if (pre_.ignores_merges()) {
        work.spelled.clear();
        for (const char c : piece) work.spelled += alphabet().spelled[static_cast<std::uint8_t>(c)];
        if (const auto whole = text_tokens_.find(work.spelled); whole != text_tokens_.end()) {
            out.push_back(whole->second);
            return;
        }
    }
    work.ids.clear();
    for (const char c : piece) work.ids.push_back(byte_ids_[static_cast<std::uint8_t>(c)]);
    if (piece.size() <= kShortPiece) {
        merge_short(work);
    } else {
        merge_long(work);
    }
    for (const TokenId id : work.ids) {
        if (id != kNone) out.push_back(id);
    }
}

void BpeEncoder::merge_short(Work& work) const {
    std::vector<TokenId>& ids = work.ids;
    constexpr std::uint32_t kNever = UINT32_MAX;
    std::array<Merge, kShortPiece> merges;  // of the symbols i and i + 1
    const auto look_up = [&](std::size_t i) {
        const Merge* merge = find_merge(ids[i], ids[i + 1]);
        merges[i] = merge ? *merge : Merge{kNever, kNone};
    };
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) look_up(i);
    while (ids.size() > 1) {
        const std::size_t n_pairs = ids.size() - 1;
        const auto best = std::min_element(merges.begin(), merges.begin() + static_cast<std::ptrdiff_t>(n_pairs),
                                           [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
        if (best->rank == kNever) return;
        const std::size_t at = static_cast<std::size_t>(best - merges.begin());
        ids[at] = best->result;
        ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
        std::copy(best + 1, merges.begin() + static_cast<std::ptrdiff_t>(n_pairs), best);
        if (at + 1 < ids.size()) look_up(at);
        if (at > 0) look_up(at - 1);
    }
}

// Same result as merge_short(), in n log n: a heap of candidates over a linked list.
void BpeEncoder::merge_long(Work& work) const {
    auto& symbols = work.symbols;
    auto& heap = work.heap;
    const auto size = static_cast<std::int32_t>(work.ids.size());
    symbols.clear();
    heap.clear();
    for (std::int32_t i = 0; i < size; ++i) {
        symbols.push_back({work.ids[i], i - 1, i + 1 < size ? i + 1 : kNone});
    }
    const auto push = [&](std::int32_t left, std::int32_t right) {
        if (left == kNone || right == kNone) return;
        const Merge* merge = find_merge(symbols[left].id, symbols[right].id);
        if (!merge) return;
        heap.push_back({merge->rank, left, symbols[left].id, symbols[right].id, merge->result});
        std::push_heap(heap.begin(), heap.end());
    };
    for (std::int32_t i = 0; i + 1 < size; ++i) push(i, i + 1);
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end());
        const Work::Candidate best = heap.back();
        heap.pop_back();
        Work::Symbol& left = symbols[best.left];
        if (left.id != best.left_id || left.next == kNone) continue;
        Work::Symbol& right = symbols[left.next];
        if (right.id != best.right_id) continue;
        left.id = best.result;
        left.next = right.next;
        right.id = kNone;
        if (left.next != kNone) symbols[left.next].prev = best.left;
        push(left.prev, best.left);
        push(best.left, left.next);
    }
    work.ids.clear();
    for (const Work::Symbol& symbol : symbols) {
        if (symbol.id != kNone) work.ids.push_back(symbol.id);
    }
}

std::string BpeEncoder::missing_bytes() const {
    std::string missing;
    for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte)
        if (byte_ids_[byte] == kNone) missing += static_cast<char>(byte);
    return missing;
}

std::string BpeEncoder::decode(std::string_view token) {
    const ByteAlphabet& letters = alphabet();
    std::string out;
    while (!token.empty()) {
        utf8proc_int32_t code_point;
        const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(token.data()),
                                        static_cast<utf8proc_ssize_t>(token.size()), &code_point);
        const std::size_t n_bytes = n > 0 ? static_cast<std::size_t>(n) : 1;
        if (n > 0 && static_cast<std::size_t>(code_point) < letters.byte_of.size() &&
            letters.byte_of[code_point] >= 0) {
            out += static_cast<char>(letters.byte_of[code_point]);
        } else {
            out += token.substr(0, n_bytes);  // not of the alphabet: stands for itself
        }
        token.remove_prefix(n_bytes);
    }
    return out;
}

}  // namespace winnow
