// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "winnow/sparse.h"

namespace winnow {

/// First bit of each dimension's code in its word, for the bits of one head's dimensions.
std::vector<std::uint32_t> first_code_bits(const std::uint8_t* bits, std::uint32_t index_dim);
/// The tables of all heads as the shaders read them (shaders/common/index_codes.glsl).
std::vector<std::uint32_t> pack_code_tables(const IndexCodes& codes, std::uint32_t index_dim);
/// What is wrong with codes of so many kv heads, as the end of a sentence; empty when nothing is.
std::string code_fault(const IndexCodes& codes, std::size_t n_heads, std::uint32_t index_dim);

}  // namespace winnow
