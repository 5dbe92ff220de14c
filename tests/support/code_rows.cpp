// SPDX-License-Identifier: Apache-2.0
#include "tests/support/code_rows.h"

#include <algorithm>

#include "tests/support/random.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

// Word of the plane and first bit in it.
struct Place {
    std::size_t word;
    std::uint32_t first;
};
Place place_of(const IndexCodes& codes, std::size_t head, std::uint32_t dim, std::size_t row, std::uint32_t r) {
    const std::uint32_t n = index_code_words(dim), own = index_code_word(dim, r);
    std::uint32_t first = 0;  // dimensions share a word in ascending order, lowest bits first
    for (std::uint32_t other = 0; other < r; ++other)
        if (index_code_word(dim, other) == own) first += codes.bits[head * dim + other];
    return {(row / kBlock * n + own) * kBlock + row % kBlock, first};
}

}  // namespace

IndexCodes random_codes(std::size_t n_heads, std::uint32_t dim, float deviation) {
    ReplicableRng rng(dim);
    IndexCodes codes;
    for (std::size_t head = 0; head < n_heads; ++head) {
        std::vector<std::uint32_t> room(index_code_words(dim), 16);
        for (std::uint32_t r = 0; r < dim; ++r) {
            constexpr std::uint32_t kWanted[] = {6, 4, 3, 0, 5, 2, 3, 1};
            std::uint32_t& left = room[index_code_word(dim, r)];
            const std::uint32_t bits = std::min(kWanted[(r + head) % 8], left);
            left -= bits;
            codes.bits.push_back(static_cast<std::uint8_t>(bits));
            // Over the place u from -1 to 1: u + bend (u^3 - u), which ascends for a bend between -1/2 and 1.
            const float n = static_cast<float>(1u << bits), s = 2 / n, t = 1 / n - 1, wide = 2.2f * deviation;
            const float bend = -0.3f + 0.8f * static_cast<float>(rng.uniform()), line = wide * (1 - bend),
                        cubic = wide * bend;
            const float shift = rng.normal(0, 0.2f * deviation);
            for (const float term : {shift + line * t + cubic * t * t * t, line * s + 3 * cubic * s * t * t,
                                     3 * cubic * s * s * t, cubic * s * s * s})
                codes.curves.push_back(term);
        }
    }
    return codes;
}

std::uint32_t nearest_code(const IndexCodes& codes, std::size_t head, std::uint32_t dim, std::uint32_t r, float x) {
    std::uint32_t code = 0;
    while (code + 1 < 1u << codes.bits[head * dim + r] &&
           x >= 0.5f * (value_of_code(codes, head, dim, r, code) + value_of_code(codes, head, dim, r, code + 1)))
        ++code;
    return code;
}

float value_of_code(const IndexCodes& codes, std::size_t head, std::uint32_t dim, std::uint32_t r, std::uint32_t code) {
    return code_value(codes.curves.data() + (head * dim + r) * kCodeTerms, code);
}

void pack_code_row(std::span<std::uint16_t> plane, const IndexCodes& codes, std::size_t head, std::uint32_t dim,
                   std::size_t row, std::span<const float> key) {
    for (std::uint32_t w = 0; w < index_code_words(dim); ++w)
        plane[(row / kBlock * index_code_words(dim) + w) * kBlock + row % kBlock] = 0;
    for (std::uint32_t r = 0; r < dim; ++r) {
        const Place at = place_of(codes, head, dim, row, r);
        plane[at.word] =
            static_cast<std::uint16_t>(plane[at.word] | nearest_code(codes, head, dim, r, key[r]) << at.first);
    }
}

std::vector<std::uint32_t> unpack_code_row(std::span<const std::uint16_t> plane, const IndexCodes& codes,
                                           std::size_t head, std::uint32_t dim, std::size_t row) {
    std::vector<std::uint32_t> out;
    for (std::uint32_t r = 0; r < dim; ++r) {
        const Place at = place_of(codes, head, dim, row, r);
        out.push_back(plane[at.word] >> at.first & ((1u << codes.bits[head * dim + r]) - 1));
    }
    return out;
}

}  // namespace winnow::test
