// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "winnow/types.h"

namespace winnow::test {

inline bool is_quantized(KvType type) { return type == KvType::kQ8_0 || type == KvType::kQ4_0; }

/// Rows [n, head_dim] as a pool of blocks of 64 rows holds them, by the rules of GGUF's q8_0 and q4_0 with the scale
/// rounded to f16 first. NaN rows become NaN. n is a multiple of 64.
std::vector<std::byte> pack_rows(KvType type, std::uint32_t head_dim, std::span<const float> rows);
/// The values of such a pool, [n, head_dim]; bytes of 0xff give NaN.
std::vector<float> unpack_rows(KvType type, std::uint32_t head_dim, std::span<const std::byte> pool);
/// (first byte, bytes) of everything that belongs to a row.
std::vector<std::pair<std::size_t, std::size_t>> row_bytes_of(KvType type, std::uint32_t head_dim, std::size_t row);
/// Most that storing can move a value of a row whose run of 32 dimensions has this largest magnitude.
double storing_error(KvType type, double value, double largest);

}  // namespace winnow::test
