// SPDX-License-Identifier: Apache-2.0
// A bench of wrong numbers is worth nothing: a few of a stage's results against its reference, before it is timed.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "bench/support/gpu_bench.h"

namespace winnow::bench {

/// Most rows that a check goes through: references are plain loops.
constexpr std::uint32_t kCheckedRows = 64;

/// Reproducible numbers in [-1, 1) that are halves, 2^-10 apart.
std::vector<float> random_halves(std::size_t n, std::uint32_t seed);
/// A buffer of them, as f16 or as f32.
vk::Buffer f16_buffer(const std::vector<float>& values);
vk::Buffer f32_buffer(const std::vector<float>& values);
/// Halves [first, first + n) of a buffer.
std::vector<float> f16_values(const vk::Buffer& buffer, std::size_t first, std::size_t n);

/// The rows of a matrix that are checked: the first ones and the last ones.
std::vector<std::uint32_t> checked_rows(std::uint32_t n_rows);
/// 0 and n - 1, once where they are the same.
std::vector<std::uint32_t> first_and_last(std::uint32_t n);
/// Some of `all`.
std::vector<double> picked(const std::vector<float>& all, const std::vector<std::uint32_t>& places);

/// An activation vector as a stage leaves it for a matvec: random_halves, quantised.
std::vector<std::uint32_t> random_activations(std::size_t n);

/// Empty, or what is wrong: `got` differs from `expected` by more than `share` of its length (root of the sum of
/// squares), or is no number.
std::string difference(const std::vector<double>& got, const std::vector<double>& expected, double share);

}  // namespace winnow::bench
