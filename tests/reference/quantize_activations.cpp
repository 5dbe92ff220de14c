// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/quantize_activations.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace winnow::reference {
namespace {

constexpr int kLargest = 16256;  // 127 * 128: the code of a block's largest value

// Word that holds byte e (0-31) of one of a block's two int8 planes; nb blocks in all.
std::size_t word_of(std::size_t nb, std::size_t block, std::size_t e, bool low) {
    return 4 * ((e / 16 + (low ? 2 : 0)) * nb + block) + e % 16 / 4;
}
int byte_at(std::uint32_t word, std::size_t j) { return static_cast<std::int8_t>(word >> (8 * j)); }

}  // namespace

double Activations::sum_of_squares() const { return std::accumulate(squares.begin(), squares.end(), 0.0); }

double Activations::inverse_rms(double eps) const {
    return 1 / std::sqrt(sum_of_squares() / static_cast<double>(values.size()) + eps);
}

std::vector<std::uint32_t> quantize_activations(std::span<const float> values, std::span<const float> squares) {
    const std::size_t nb = values.size() / 32;
    std::vector<std::uint32_t> words(nb * 20, 0);
    for (std::size_t block = 0; block < nb; ++block) {
        double largest = 0;
        for (std::size_t e = 0; e < 32; ++e) largest = std::max(largest, std::abs(double{values[32 * block + e]}));
        const float scale = static_cast<float>(largest / kLargest);
        int sums[2] = {0, 0};
        double square = 0;
        for (std::size_t e = 0; e < 32; ++e) {
            const int code =
                largest > 1e-30 ? static_cast<int>(std::nearbyint(values[32 * block + e] / largest * kLargest)) : 0;
            const int high = (code + 64) >> 7;
            const auto put = [&](bool low, int byte) {
                words[word_of(nb, block, e, low)] |= (static_cast<std::uint32_t>(byte) & 0xffu) << (8 * (e % 4));
            };
            put(false, high);
            put(true, code - 128 * high);
            sums[e / 16] += code;
            square += squares[32 * block + e];
        }
        const float meta[4] = {scale, scale * static_cast<float>(sums[0]), scale * static_cast<float>(sums[1]),
                               static_cast<float>(square)};
        for (std::size_t i = 0; i < 4; ++i) words[4 * (4 * nb + block) + i] = std::bit_cast<std::uint32_t>(meta[i]);
    }
    return words;
}

Activations dequantize_activations(std::span<const std::uint32_t> words) {
    const std::size_t nb = words.size() / 20;
    Activations a;
    for (std::size_t block = 0; block < nb; ++block) {
        const auto meta = [&](std::size_t i) {
            return static_cast<double>(std::bit_cast<float>(words[4 * (4 * nb + block) + i]));
        };
        a.scales.push_back(meta(0));
        a.sums_a.push_back(meta(1));
        a.sums_b.push_back(meta(2));
        a.squares.push_back(meta(3));
        for (std::size_t e = 0; e < 32; ++e) {
            a.high.push_back(byte_at(words[word_of(nb, block, e, false)], e % 4));
            a.low.push_back(byte_at(words[word_of(nb, block, e, true)], e % 4));
            a.values.push_back(a.scales.back() * (128 * a.high.back() + a.low.back()));
        }
    }
    return a;
}

}  // namespace winnow::reference
