// SPDX-License-Identifier: Apache-2.0
#include "bench/support/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "runtime/vk/upload.h"
#include "tests/reference/dequantize.h"
#include "tests/reference/quantize_activations.h"

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

std::vector<float> f16_values(const vk::Buffer& buffer, std::size_t first, std::size_t n) {
    std::vector<float> values;
    for (const std::uint16_t bits : vk::read_back_as<std::uint16_t>(Bench::get().device(), {buffer, 2 * first, 2 * n}))
        values.push_back(static_cast<float>(reference::half_to_double(bits)));
    return values;
}

std::vector<std::uint32_t> checked_rows(std::uint32_t n_rows) {
    std::vector<std::uint32_t> rows;
    for (std::uint32_t r = 0; r < n_rows; ++r)
        if (r < kCheckedRows / 2 || r + kCheckedRows / 2 >= n_rows) rows.push_back(r);
    return rows;
}

std::vector<std::uint32_t> first_and_last(std::uint32_t n) {
    return n == 1 ? std::vector<std::uint32_t>{0} : std::vector<std::uint32_t>{0, n - 1};
}

std::vector<double> picked(const std::vector<float>& all, const std::vector<std::uint32_t>& places) {
    std::vector<double> some;
    for (const std::uint32_t i : places) some.push_back(double{all.at(i)});
    return some;
}

std::vector<std::uint32_t> random_activations(std::size_t n) {
    const std::vector<float> values = random_halves(n, 1);
    std::vector<float> squares;
    for (const float x : values) squares.push_back(x * x);
    return reference::quantize_activations(values, squares);
}

std::string difference(const std::vector<double>& got, const std::vector<double>& expected, double share) {
    if (got.size() != expected.size())
        return fmt::format("{} results where {} are expected", got.size(), expected.size());
    double squares = 0, error = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        squares += expected[i] * expected[i];
        error += (got[i] - expected[i]) * (got[i] - expected[i]);
    }
    if (std::isfinite(error) && error <= share * share * squares) return {};
    return fmt::format("wrong results: they differ from the reference by {:.2g} of its length",
                       std::sqrt(error / squares));
}

}  // namespace winnow::bench
