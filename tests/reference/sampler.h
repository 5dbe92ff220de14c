// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "winnow/types.h"

namespace winnow::reference {

/// Philox-2x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
std::array<std::uint32_t, 2> philox_2x32(std::array<std::uint32_t, 2> counter, std::uint32_t key);

/// The sampler's draw number `counter`: 24 bits, in [0, 1).
double uniform_draw(std::uint64_t seed, std::uint32_t counter);

/// Logits after the repetition penalty on the last repeat_last_n of `recent` (oldest first).
std::vector<double> penalised(const std::vector<float>& logits, const SamplingOptions& options,
                              const std::vector<std::int32_t>& recent);

/// What the filters leave, in token order.
struct Kept {
    std::vector<std::uint32_t> ids;
    std::vector<double> weights;  ///< at the temperature, in proportion to probabilities
};

/// Repetition penalty, top-k, top-p, min-p, temperature, in this order; ties at a filter's edge are all kept. Top-p and
/// min-p compare probabilities at temperature 1, top-p those of what top-k left. Greedy keeps the ties for the largest.
/// @param slack moves the edges of top-p and min-p down by this share of the probability: negative keeps less.
Kept keep(const std::vector<float>& logits, const SamplingOptions& options, const std::vector<std::int32_t>& recent,
          double slack = 0);

/// The token whose part of [0, 1), in token order, holds `uniform`.
std::uint32_t pick(const Kept& kept, double uniform);

/// Whether that part, widened by `slack` on either side, holds `uniform`.
bool may_pick(const Kept& kept, double uniform, std::uint32_t token, double slack);

}  // namespace winnow::reference
