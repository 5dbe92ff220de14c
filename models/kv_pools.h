// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/kv/kv_cache.h"

namespace winnow {

/// Keys of a layer as calibration reads them, f16 [n_tokens, n_kv_heads, head_dim]; zeros where a ring that has been
/// written up to `n_written` tokens holds them no more. @throws Error(kInvalidArgument) for a cache of another type
/// than f16.
std::vector<std::uint16_t> read_keys(vk::Device& device, const KvCache& cache, std::uint32_t layer,
                                     std::uint32_t n_tokens, std::uint32_t n_written);

/// Pseudo-random keys and values in every row of the cache, as benches need them.
void fill_pools(vk::Device& device, const KvCache& cache);

}  // namespace winnow
