// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "winnow/types.h"

namespace winnow {

/// Where the planes of a repacked matrix lie (shaders/common/weights.glsl has the picture). Offsets in bytes from
/// the start of the matrix, each a multiple of 16. Repacking changes the order of bytes, never a value.
struct WeightPlanes {
    std::uint64_t high = 0;
    std::uint64_t scale = 0;
    std::uint64_t super = 0;
    std::uint64_t total = 0;
};

/// @param n_in columns, a multiple of 32 (256 for the K types).
WeightPlanes weight_planes(WeightType type, std::uint64_t n_rows, std::uint64_t n_in);

/// Bytes that one repacked row adds; total of n rows <= n * this + 64.
std::uint64_t repacked_row_bytes(WeightType type, std::uint64_t n_in);

/// Bytes of a row in GGUF's block format.
std::uint64_t stored_row_bytes(WeightType type, std::uint64_t n_in);

/// Repacks rows [row_begin, row_end) of a matrix of n_rows rows. `rows` holds just these rows in GGUF's block format;
/// `out` is the whole matrix, weight_planes(...).total bytes. Disjoint row ranges may be done by several threads.
void repack_rows(WeightType type, std::span<const std::byte> rows, std::uint64_t n_in, std::uint64_t n_rows,
                 std::uint64_t row_begin, std::uint64_t row_end, std::span<std::byte> out);

/// The whole matrix with all hardware threads.
void repack_matrix(WeightType type, std::span<const std::byte> rows, std::uint64_t n_in, std::uint64_t n_rows,
                   std::span<std::byte> out);

}  // namespace winnow
