// SPDX-License-Identifier: Apache-2.0
#include "tests/support/code_rows.h"

#include <algorithm>

#include "tests/support/random.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

const float* table_of(const IndexCodes& codes, std::size_t head, std::uint32_t dim, std::uint32_t r) {
    return codes.values.data() + (head * dim + r) * kCodeValues;
}

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
            std::vector<float> values = rng.normals(kCodeValues, 0, deviation);
            std::sort(values.begin(), values.begin() + (1 << bits));
            codes.values.insert(codes.values.end(), values.begin(), values.end());
        }
    }
    return codes;
}

std::uint32_t nearest_code(const IndexCodes& codes, std::size_t head, std::uint32_t dim, std::uint32_t r, float x) {
    const float* table = table_of(codes, head, dim, r);
    std::uint32_t code = 0;
    while (code + 1 < 1u << codes.bits[head * dim + r] && x >= 0.5f * (table[code] + table[code + 1])) ++code;
    return code;
}

float code_value(const IndexCodes& codes, std::size_t head, std::uint32_t dim, std::uint32_t r, std::uint32_t code) {
    return table_of(codes, head, dim, r)[code];
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
