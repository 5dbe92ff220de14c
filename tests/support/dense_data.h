// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/weights/model_weights.h"
#include "shaders/common/interface.h"
#include "tests/reference/matvec.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/random_weights.h"

namespace winnow::test {

/// Unit of the error bounds: half a unit in the last place of 1, as f32.
inline constexpr double kRounding = 0x1p-24;

/// Roundings of one inner product of n_in columns (shaders/common/matvec.glsl), each of at most its terms: 14 inside a
/// block of 32 (floats: conversion, product, sum of four, sum of eight; codes: 6), a serial sum over the blocks of a
/// lane with subgroups of 8, the smallest, and a tree over at most 128 lanes.
inline double matvec_roundings(std::size_t n_in) { return 14 + static_cast<double>(n_in) / 32 / 8 + 7; }

/// Relative roundings of 1 / rms from the blocks' squares (half of the sum's: the root halves them), the root's 2 ULP
/// and the product with it.
inline double rms_roundings(std::size_t n_in) { return (static_cast<double>(n_in) / 32 / 8 + 7) / 2 + 2 + 4 + 1; }

/// A random matrix as the file has it and as numbers.
struct TestMatrix {
    TestMatrix(WeightType weight_type, std::size_t n_rows, std::size_t n_in, ReplicableRng& rng);
    WeightType type;
    std::vector<std::byte> blocks;
    reference::Matrix ref;
};

/// Appends the planes of rows [begin, end) to a buffer's bytes, after some that belong to nobody.
MatrixRef append_planes(std::vector<std::byte>& bytes, const TestMatrix& m, std::size_t begin, std::size_t end);

/// A random normed vector as a stage leaves it: quantised, with its squares.
struct TestActivations {
    TestActivations(std::size_t n, ReplicableRng& rng);
    std::vector<std::uint32_t> words;
    reference::Activations ref;
};

/// A state of which only these matter to a stage.
vk::Buffer make_state(vk::Device& device, std::uint32_t token, std::uint32_t position, bool stopped = false);

std::vector<double> to_doubles(const std::vector<float>& values);
/// n_roundings * kRounding * terms.
std::vector<double> allowances(const std::vector<double>& terms, double n_roundings);

/// Expects a quantised vector: values within their allowance and half a step of the block, the largest of a block coded
/// by the largest code, sums those of the codes, squares [n / 32] within theirs.
void expect_activations(const std::vector<std::uint32_t>& words, const std::vector<double>& values,
                        const std::vector<double>& allowance, const std::vector<double>& squares,
                        const std::vector<double>& squares_allowance, const char* what);

/// Expects x and the quantised next input that a stage made of it.
void expect_residual(const GuardedBuffer& x, const GuardedBuffer& act, const reference::Residual& expected,
                     double n_roundings, const char* what);

}  // namespace winnow::test
