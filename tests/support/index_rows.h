// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "winnow/types.h"

namespace winnow::test {

/// Index keys [n, index_dim] as the plane of shaders/common/index_keys.glsl holds them, n a multiple of 64; NaN rows
/// become NaN.
std::vector<std::byte> pack_index_rows(IndexType type, std::uint32_t index_dim, std::span<const float> rows);
/// The values of such a plane, [n, index_dim]; bytes of 0xff give NaN.
std::vector<float> unpack_index_rows(IndexType type, std::uint32_t index_dim, std::span<const std::byte> plane);
/// Most that storing can move a value of a row with this largest magnitude.
double index_storing_error(IndexType type, double value, double largest);

}  // namespace winnow::test
