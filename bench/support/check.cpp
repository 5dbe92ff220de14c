// SPDX-License-Identifier: Apache-2.0
#include "bench/support/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "models/gguf.h"
#include "models/random_model.h"

namespace winnow::bench {
namespace {

// Exact for what random_halves gives: zero, or 2^-10 to 1.
std::uint16_t half_bits(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t exponent = bits >> 23 & 0xff;
    if (exponent == 0) return 0;
    return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | (exponent - 112) << 10 | (bits >> 13 & 0x3ff));
}

}  // namespace

std::vector<float> random_halves(std::size_t n, std::uint32_t seed) {
    std::mt19937 rng(seed);
    std::vector<float> values(n);
    for (float& x : values) x = static_cast<float>(static_cast<std::int32_t>(rng() >> 21) - 1024) / 1024;
    return values;
}

vk::Buffer f16_buffer(const std::vector<float>& values) {
    std::vector<std::uint32_t> words((values.size() + 1) / 2);
    for (std::size_t i = 0; i < values.size(); ++i) words[i / 2] |= std::uint32_t{half_bits(values[i])} << i % 2 * 16;
    return Bench::get().words(words);
}

vk::Buffer f32_buffer(const std::vector<float>& values) {
    std::vector<std::uint32_t> words;
    for (const float x : values) words.push_back(std::bit_cast<std::uint32_t>(x));
    return Bench::get().words(words);
}

std::vector<std::uint32_t> checked_rows(std::uint32_t n_rows) {
    std::vector<std::uint32_t> rows;
    for (std::uint32_t r = 0; r < n_rows; ++r)
        if (r < kCheckedRows / 2 || r + kCheckedRows / 2 >= n_rows) rows.push_back(r);
    return rows;
}

reference::Matrix checked_matrix(WeightType type, std::uint32_t n_rows, std::uint32_t n_in) {
    const std::uint64_t row = row_bytes(type, n_in);
    std::vector<std::byte> all(row * n_rows), some;
    fill_random_weights(type, 1, all);
    for (const std::uint32_t r : checked_rows(n_rows)) {
        const auto at = all.begin() + static_cast<std::ptrdiff_t>(r * row);
        some.insert(some.end(), at, at + static_cast<std::ptrdiff_t>(row));
    }
    return reference::dequantize(type, some, checked_rows(n_rows).size(), n_in);
}

std::string difference(const std::vector<double>& got, const std::vector<double>& expected, double share) {
    if (got.size() != expected.size()) return fmt::format("{} results where {} are expected", got.size(), expected.size());
    double squares = 0, error = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        squares += expected[i] * expected[i];
        error += (got[i] - expected[i]) * (got[i] - expected[i]);
    }
    if (std::isfinite(error) && error <= share * share * squares) return {};
    return fmt::format("wrong results: they differ from the reference by {:.2g} of its length", std::sqrt(error / squares));
}

}  // namespace winnow::bench
