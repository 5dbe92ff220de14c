// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <vector>

#include "winnow/types.h"

namespace winnow::reference {

/// No candidate may be dropped: what the stage writes when it knows of no bound.
inline constexpr float kNoThreshold = -3.0e38f;

/// A bound that at least top_k logits reach, whichever min(repeat_last_n, n_recent) tokens a penalty may lower: the
/// (top_k + that many)-th largest of the maxima of disjoint groups of logits. Greedy counts as top_k 1.
float sample_threshold(std::vector<float> maxima, const SamplingOptions& options, std::size_t n_recent);

}  // namespace winnow::reference
