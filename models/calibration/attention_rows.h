// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <Eigen/Core>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "winnow/types.h"

namespace winnow {

/// Row-major, as attention reads it.
using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Column block [n, head_dim] of one head out of f16 [n, n_heads, head_dim].
Rows head_rows(std::span<const std::uint16_t> halves, std::uint32_t n_heads, std::uint32_t head,
               std::uint32_t head_dim);

/// Queries of chosen positions of a captured text, all layers.
class QuerySample {
public:
    /// @param positions ascending.
    QuerySample(const ModelShape& shape, std::vector<std::uint32_t> positions);
    /// What Session::capture hands out.
    void collect(std::uint32_t layer, std::uint32_t first, std::span<const std::uint16_t> queries);

    const std::vector<std::uint32_t>& positions() const { return positions_; }
    Rows queries(std::uint32_t layer, std::uint32_t head) const;  ///< [positions, head_dim], scaled

private:
    std::uint32_t n_heads_, head_dim_;
    std::vector<std::uint32_t> positions_;
    std::vector<std::vector<std::uint16_t>> layers_;  ///< f16 [positions, n_heads, head_dim]
};

/// Softmax over the tokens up to each row's position [rows, n_tokens]; 0 beyond.
Rows attention(const Rows& queries, const Rows& keys, const std::vector<std::uint32_t>& positions);

/// Sums of a row's attention to earlier copies of its own token and to their successors, where the text repeats itself
/// every `period` tokens from token `first` on: {echo, induction}, mean over the rows in the second copy or later.
struct RepeatScores {
    float echo = 0, induction = 0;
};
RepeatScores score_repeats(const Rows& attention, const std::vector<std::uint32_t>& positions, std::uint32_t period,
                           std::uint32_t first = 0);

/// Runs task(0) .. task(n-1) on all cores; the first exception is thrown again here.
void parallel_for(std::size_t n, const std::function<void(std::size_t)>& task);

}  // namespace winnow
