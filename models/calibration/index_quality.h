// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "models/calibration/attention_rows.h"
#include "models/calibration/index_fit.h"

namespace winnow {

/// Tokens that compete for a row at `position`: neither sinks nor the window.
struct Candidates {
    std::uint32_t sink = 4, window = 256;
    std::uint32_t begin() const { return sink; }
    std::uint32_t end(std::uint32_t position) const {
        return position + 1 > window + sink ? position + 1 - window : sink;
    }
};

/// How well an index finds what attention finds: mass of its best k candidates over that of the true best k, and the
/// share of the true ones among them.
struct SelectionQuality {
    double mass = 0, recall = 0;
    std::uint32_t n_rows = 0;
};

/// Scores of the index [rows, n_tokens]. @param int8 keys rounded to 8 bits with a scale per token.
Rows index_scores(const Rows& queries, const Rows& keys, const IndexFit& fit, bool int8 = false);

SelectionQuality measure_selection(const Rows& attention, const Rows& scores,
                                   const std::vector<std::uint32_t>& positions, const Candidates& candidates,
                                   std::uint32_t k);

/// The factor on the index scores of a kv head with which the smallest set that holds `mass` of every query head's
/// estimated attention holds as much of the true one, on average over rows and heads.
/// @param attention, scores of each query head of the group. @param captured set to the true mass at that factor.
float fit_temperature(const std::vector<Rows>& attention, const std::vector<Rows>& scores,
                      const std::vector<std::uint32_t>& positions, const Candidates& always, float mass,
                      float* captured);

}  // namespace winnow
