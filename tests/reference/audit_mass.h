// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tests/reference/attend_dense.h"

namespace winnow::reference {

struct CapturedMass {
    double mass = 0, without_sinks = 0;
    double rest = 0;  ///< share of the attention outside the sinks: what the second is relative to
};

/// Captured mass of each query head, given the lse over what it attended to. A head that gives all but a thousandth to
/// the sinks has lost nothing.
std::vector<CapturedMass> audit_mass(std::span<const float> query, const CacheView& cache, std::uint32_t position,
                                     std::uint32_t sink_tokens, std::span<const double> lse);

}  // namespace winnow::reference
