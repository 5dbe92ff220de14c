// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tests/reference/attend_dense.h"
#include "winnow/sparse.h"

namespace winnow::reference {

/// What selection sees of a layer.
struct SelectView {
    CacheView cache;
    std::span<const float> query;  ///< [n_heads, head_dim], scaled
    std::uint32_t position = 0, sinks = 0, window = 0;
    HeadPool pool = HeadPool::kMax;
    std::uint32_t index_dim = 0;
    std::span<const float> maps;                ///< per kv head [A: index_dim, head_dim][B: index_dim, head_dim]
    std::span<const float> index_keys;          ///< as stored [n_physical, block, index_dim]
    std::span<const float> coded_keys;          ///< what their codes say of them
    float (*stored_extreme)(double) = nullptr;  ///< what the summary of a block makes of a key; null: nothing else

    /// End of the middle region: whole blocks outside the window and the open block, or the end of the sinks.
    std::uint32_t middle_end() const;
    std::uint32_t n_group() const {
        return static_cast<std::uint32_t>(query.size() / cache.head_dim / cache.heads.size());
    }
};

/// A token, block or superblock that may be kept.
struct Row {
    std::uint32_t unit = 0;          ///< tokens [unit * size, unit * size + size)
    std::uint32_t n_tokens = 0;      ///< of them in the middle region, never 0
    std::vector<double> log_weight;  ///< natural logarithm of the estimated probability per token, by query head
    double pooled = 0;               ///< of them by the pool rule; rows are ranked by it
};

/// Rows of a level of one kv head, with the share of each query head that is attended in any case.
struct Level {
    std::vector<Row> rows;
    std::vector<double> sure, lse;  ///< by query head
};

/// Scores by the definitions of winnow/sparse.h.
/// @param parents units of the level above that were kept, ascending; nullptr for the first level
/// @param dropped log of the summed exp(score) of what the levels above did not keep, by query head; empty for the
/// first level
Level indexer_score(const SelectView& view, const SelectLevel& level, std::uint32_t kv_head,
                    const std::vector<std::uint32_t>* parents, std::uint32_t parent_unit,
                    std::span<const double> dropped);

/// The same rows as one query head ranks them for itself.
Level head_ranking(const Level& scored, std::size_t g);

/// Log of what the kept rows (places) leave out, for the next level; the same floor as the stage's.
std::vector<double> dropped_mass(const Level& scored, std::span<const std::size_t> kept);

}  // namespace winnow::reference
