// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "bench/support/candidate.h"

namespace winnow::bench {

/// Tiles of the prefill matmul for matrix units, at the projections of a shape and a chunk of so many tokens; none on
/// other devices.
std::vector<Candidate> matmuls(const Shape& shape, std::uint32_t n_tokens);

}  // namespace winnow::bench
