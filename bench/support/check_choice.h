// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tests/reference/indexer_score.h"

namespace winnow::bench {

/// The rows that one kv head chooses from, as a stage finds them in memory.
struct ScoredRows {
    std::span<const float> scores;  ///< [n_group, stride], raw
    std::uint32_t stride = 0;
    std::vector<double> lse,
        sure;  ///< by query head: log of the softmax's denominator, share of what is attended in any case
    std::uint32_t unit = 0, sinks = 0,
                  middle_end = 0;  ///< tokens of a row; first and end of the tokens that rows stand for
};

/// What is wrong with the units that a rule kept of them, pooled by their maximum; empty if nothing is. Rows within
/// `bin` nats of the cut may fall either way. @param budget tokens, at most
std::string check_choice(const ScoredRows& rows, const SelectLevel& level, std::uint32_t budget,
                         std::span<const std::uint32_t> kept, double bin);

}  // namespace winnow::bench
