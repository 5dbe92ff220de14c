// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/index_codes.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "shaders/common/interface.h"

namespace winnow {

static_assert(kCodeTerms == WINNOW_CODE_TERMS && WINNOW_CODE_WORDS == WINNOW_CODE_TERMS + 1);

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
            for (std::uint32_t k = 0; k < kCodeTerms; ++k)
                words.push_back(std::bit_cast<std::uint32_t>(codes.curves[(at + r) * kCodeTerms + k]));
        }
    }
    return words;
}

std::string code_fault(const IndexCodes& codes, std::size_t n_heads, std::uint32_t index_dim) {
    const std::size_t n = n_heads * index_dim;
    if (codes.bits.size() != n || codes.curves.size() != n * kCodeTerms)
        return fmt::format("has codes of {} dimensions with {} terms, not {} with {}", codes.bits.size(),
                           codes.curves.size(), n, n * kCodeTerms);
    for (std::size_t at = 0; at < n; at += index_dim) {
        const std::vector<std::uint32_t> first = first_code_bits(codes.bits.data() + at, index_dim);
        for (std::uint32_t r = 0; r < index_dim; ++r) {
            const std::uint32_t bits = codes.bits[at + r];
            if (bits > kMostCodeBits || first[r] + bits > 16)
                return fmt::format("has a code of {} bits too many", bits);
            const float* curve = codes.curves.data() + (at + r) * kCodeTerms;
            float before = code_value(curve, 0);
            for (std::uint32_t k = 0; k < 1u << bits; ++k) {
                const float value = code_value(curve, k);
                if (!std::isfinite(value) || value < before) return "has codes whose values do not ascend";
                before = value;
            }
        }
    }
    return {};
}

}  // namespace winnow
