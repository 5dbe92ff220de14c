// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "tests/reference/attend_dense.h"

namespace winnow::reference {

/// Causal attention of a chunk: queries [n_tokens, n_heads, head_dim] (scaled) of the tokens at `position` and after;
/// each sees the cache up to itself. Output and terms [n_tokens, n_heads, head_dim], lse [n_tokens, n_heads].
Attended attend_prefill(std::span<const float> queries, std::size_t n_heads, const CacheView& cache,
                        std::uint32_t position);

}  // namespace winnow::reference
