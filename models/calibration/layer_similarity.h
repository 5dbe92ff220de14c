// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "models/calibration/attention_rows.h"
#include "models/calibration/index_quality.h"
#include "winnow/sparse.h"
#include "winnow/types.h"

namespace winnow {

/// How much of the attention of each kv head the best tokens of another layer's kv heads hold (Kascade, arXiv
/// 2512.16391), and how many of its best tokens are theirs too (HyLRA, arXiv 2602.00777).
class LayerSimilarity {
public:
    LayerSimilarity(const ModelShape& shape, std::vector<std::uint32_t> positions, Candidates candidates,
                    std::uint32_t k);
    /// @param pooled mean attention of the group's query heads [positions, n_tokens]. Heads may come in any order, from
    /// any thread.
    void add(std::uint32_t layer, std::uint32_t kv_head, const Rows& pooled);

    /// Similarity table, anchors and head maps into the calibration: the dynamic programme chooses the `n_anchors`
    /// layers that lose the least when every full layer after an anchor reuses its lists; the first full layer stays
    /// dense.
    void choose_anchors(Calibration& calibration, std::uint32_t n_anchors) const;

    /// Overlap table, refreshing layers and their head maps into the calibration: the fewest refreshing layers with
    /// which every other full layer shares at least `least_overlap` of its best tokens with the one before it; among
    /// those the most overlap.
    void choose_refreshes(Calibration& calibration, double least_overlap) const;

private:
    struct Head {
        Rows attention;                                ///< [positions, n_tokens]
        std::vector<std::vector<std::uint32_t>> best;  ///< tokens of each row
        std::vector<double> best_mass;
        std::vector<std::vector<std::uint32_t>> listed;  ///< an eighth of the candidates of each row, ascending
    };
    std::vector<std::uint32_t> full_layers() const;
    /// value(from head, to head) of the best head of layer `from` for each kv head of `to`, for all full layers from <=
    /// to, mean over heads [n_layers, n_layers]; the heads in best_heads [n_layers, n_layers, n_kv_heads].
    std::vector<float> compare(double (LayerSimilarity::*value)(const Head&, const Head&) const,
                               std::vector<std::uint32_t>& best_heads) const;
    double shared_tokens(const Head& from, const Head& to) const;
    double shared_mass(const Head& from, const Head& to) const;

    const ModelShape& shape_;
    std::vector<std::uint32_t> positions_;
    Candidates candidates_;
    std::uint32_t k_;
    std::vector<Head> heads_;  ///< [n_layers, n_kv_heads]
};

}  // namespace winnow
