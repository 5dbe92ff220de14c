// SPDX-License-Identifier: Apache-2.0
#include "models/text_stream.h"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

namespace winnow {
namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Bytes at the end of `text` that more bytes could complete to a code point.
std::size_t incomplete_bytes(std::string_view text) {
    const std::size_t n_most = std::min<std::size_t>(text.size(), 3);
    for (std::size_t n = 1; n <= n_most; ++n) {
        const char c = text[text.size() - n];
        if (is_continuation(c)) continue;
        const auto lead = static_cast<unsigned char>(c);
        const std::size_t need = lead < 0xC2 || lead > 0xF4 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        return n < need ? n : 0;
    }
    return 0;
}

// Length of the longest end of `text` that is a start of `stop`, but not all of it.
std::size_t begun_bytes(std::string_view text, std::string_view stop) {
    for (std::size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
        if (text.ends_with(stop.substr(0, n))) return n;
    }
    return 0;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop_strings)
    : tokenizer_(tokenizer), stop_strings_(std::move(stop_strings)) {
    std::erase_if(stop_strings_, [](const std::string& stop) { return stop.empty(); });
}

std::string TextStream::push(TokenId id) {
    if (finished_) return {};
    held_ += tokenizer_.piece(id);
    std::size_t first = held_.npos;
    for (const std::string& stop : stop_strings_) first = std::min(first, held_.find(stop));
    if (first != held_.npos) {
        finished_ = true;
        std::string text = held_.substr(0, first);
        held_.clear();
        return text;
    }
    std::size_t n_begun = 0;
    for (const std::string& stop : stop_strings_) {
        n_begun = std::max(n_begun, begun_bytes(held_, stop));
    }
    std::size_t n_certain = held_.size() - n_begun;
    n_certain -= incomplete_bytes(std::string_view(held_).substr(0, n_certain));
    std::string text = held_.substr(0, n_certain);
    held_.erase(0, n_certain);
    return text;
}

std::string TextStream::flush() { return std::exchange(held_, {}); }

}  // namespace winnow
