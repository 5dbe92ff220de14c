// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "models/calibration/attention_rows.h"
#include "winnow/sparse.h"

namespace winnow {

/// What the filter of a two-level index, by codes or by blocks, costs: its choice beside that of the same index without
/// the filter.
struct FilterQuality {
    double overlap = 0;  ///< tokens that both choose over those that either does
    double ceiling = 0;  ///< the same of a filter that knows the unfiltered choice: the units with the most of it
    double mass = 0;     ///< attention that the filtered choice holds over what the unfiltered one does
    std::uint32_t n_positions = 0;
};

/// The policy with budgets that are the same shares of n_tokens as the real ones are of n_reference, sinks and window
/// left as they are.
SparsePolicy scaled_budgets(SparsePolicy policy, std::uint32_t n_tokens, std::uint32_t n_reference);
/// The policy with its last level only.
SparsePolicy without_filter(SparsePolicy policy);

/// Ids of the tokens that a chain of top-k levels over an index chooses besides sinks and window, ascending: as the
/// stages do, one block of the cache being 64 tokens. @param queries index queries of one kv head's group [n_group,
/// index_dim].
/// @param keys index keys as they are stored [n_tokens, index_dim]. @param coded what their codes say of them; empty
/// where no level asks.
std::vector<std::uint32_t> choose_by_index(const SparsePolicy& policy, const Rows& queries, const Rows& keys,
                                           const Rows& coded, std::uint32_t position);

/// One position of one kv head. @param attention of the group's query heads [n_group, n_tokens].
FilterQuality measure_filter(const SparsePolicy& policy, const Rows& queries, const Rows& keys, const Rows& coded,
                             const Rows& attention, std::uint32_t position);

/// Bytes of block sums, codes and index keys that the policy's levels read for each kv head at n_tokens.
std::uint64_t index_bytes(const SparsePolicy& policy, std::uint32_t n_tokens);

}  // namespace winnow
