// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/index_codes.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "shaders/common/interface.h"

namespace winnow {

static_assert(kCodeValues == WINNOW_CODE_VALUES && WINNOW_CODE_WORDS == WINNOW_CODE_VALUES + 1);

std::vector<std::uint32_t> first_code_bits(const std::uint8_t* bits, std::uint32_t index_dim) {
    std::vector<std::uint32_t> first(index_dim), used(index_code_words(index_dim));
    for (std::uint32_t r = 0; r < index_dim; ++r) {
        std::uint32_t& word = used[index_code_word(index_dim, r)];
        first[r] = word;
        word += bits[r];
    }
    return first;
}

std::vector<std::uint32_t> pack_code_tables(const IndexCodes& codes, std::uint32_t index_dim) {
    std::vector<std::uint32_t> words;
    words.reserve(codes.bits.size() * WINNOW_CODE_WORDS);
    for (std::size_t at = 0; at < codes.bits.size(); at += index_dim) {
        const std::vector<std::uint32_t> first = first_code_bits(codes.bits.data() + at, index_dim);
        for (std::uint32_t r = 0; r < index_dim; ++r) {
            words.push_back(first[r] | std::uint32_t{codes.bits[at + r]} << 8);
            for (std::uint32_t k = 0; k < kCodeValues; ++k)
                words.push_back(std::bit_cast<std::uint32_t>(codes.values[(at + r) * kCodeValues + k]));
        }
    }
    return words;
}

std::string code_fault(const IndexCodes& codes, std::size_t n_heads, std::uint32_t index_dim) {
    const std::size_t n = n_heads * index_dim;
    if (codes.bits.size() != n || codes.values.size() != n * kCodeValues)
        return fmt::format("has codes of {} dimensions and {} values, not {} and {}", codes.bits.size(),
                           codes.values.size(), n, n * kCodeValues);
    for (std::size_t at = 0; at < n; at += index_dim) {
        const std::vector<std::uint32_t> first = first_code_bits(codes.bits.data() + at, index_dim);
        for (std::uint32_t r = 0; r < index_dim; ++r) {
            const std::uint32_t bits = codes.bits[at + r];
            if (bits > kMostCodeBits || first[r] + bits > 16)
                return fmt::format("has a code of {} bits too many", bits);
            const float* values = codes.values.data() + (at + r) * kCodeValues;
            if (!std::all_of(values, values + kCodeValues, [](float x) { return std::isfinite(x); }) ||
                !std::is_sorted(values, values + (std::size_t{1} << bits)))
                return "has a table of codes that does not ascend";
        }
    }
    return {};
}

}  // namespace winnow
