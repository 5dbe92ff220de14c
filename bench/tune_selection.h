// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "bench/support/candidate.h"

namespace winnow::bench {

/// Group shapes and splits of scoring and choosing 5 % of n_tokens of a layer: boxes of blocks of 16 and 64, means of
/// 64, and 16-dim index keys of every token, of which select_rows chooses where they are many.
std::vector<Candidate> selections(const Shape& shape, std::uint32_t n_tokens);

}  // namespace winnow::bench
