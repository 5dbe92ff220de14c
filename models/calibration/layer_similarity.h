// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "models/calibration/attention_rows.h"
#include "models/calibration/index_quality.h"
#include "winnow/sparse.h"
#include "winnow/types.h"

namespace winnow {

/// How much of the attention of each kv head the best tokens of another layer's kv heads hold (Kascade, arXiv 2512.16391).
class LayerSimilarity {
public:
    LayerSimilarity(const ModelShape& shape, std::vector<std::uint32_t> positions, Candidates candidates, std::uint32_t k);
    /// @param pooled mean attention of the group's query heads [positions, n_tokens]. Heads may come in any order, from any thread.
    void add(std::uint32_t layer, std::uint32_t kv_head, const Rows& pooled);

    /// Similarity table, anchors and head maps into the calibration: the dynamic programme chooses the `n_anchors` layers that lose
    /// the least when every full layer after an anchor reuses its lists; the first full layer stays dense.
    void choose_anchors(Calibration& calibration, std::uint32_t n_anchors) const;

private:
    struct Head {
        Rows attention;                               ///< [positions, n_tokens]
        std::vector<std::vector<std::uint32_t>> best;  ///< tokens of each row
        std::vector<double> best_mass;
    };
    double shared_mass(const Head& from, const Head& to) const;

    const ModelShape& shape_;
    std::vector<std::uint32_t> positions_;
    Candidates candidates_;
    std::uint32_t k_;
    std::vector<Head> heads_;  ///< [n_layers, n_kv_heads]
};

}  // namespace winnow
