// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "winnow/sparse.h"

namespace winnow::test {

/// Codes of kv heads whose index keys are about normal with this deviation: some dimensions have 6 bits, some none, and
/// words are full where they can be.
IndexCodes random_codes(std::size_t n_heads, std::uint32_t index_dim, float deviation);

/// The code of value x in dimension r of a head, and what it stands for.
std::uint32_t nearest_code(const IndexCodes& codes, std::size_t head, std::uint32_t index_dim, std::uint32_t r,
                           float x);
float value_of_code(const IndexCodes& codes, std::size_t head, std::uint32_t index_dim, std::uint32_t r,
                    std::uint32_t code);

/// A row of the plane of shaders/common/index_codes.glsl: written, and read as codes [index_dim].
void pack_code_row(std::span<std::uint16_t> plane, const IndexCodes& codes, std::size_t head, std::uint32_t index_dim,
                   std::size_t row, std::span<const float> key);
std::vector<std::uint32_t> unpack_code_row(std::span<const std::uint16_t> plane, const IndexCodes& codes,
                                           std::size_t head, std::uint32_t index_dim, std::size_t row);

}  // namespace winnow::test
