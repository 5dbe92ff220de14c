// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "models/calibration/attention_rows.h"
#include "models/calibration/block_filter.h"
#include "models/calibration/calibrate.h"
#include "models/calibration/index_fit.h"
#include "models/calibration/layer_similarity.h"

namespace winnow {

/// Where a TextAnalysis puts what it found of an index in each query head.
struct KeptQuality {
    std::vector<float> Calibration::*mass = nullptr;
    std::vector<float> Calibration::*recall = nullptr;
};

/// What the attention of one text says: which heads look far and which find a needle, how well an index predicts it,
/// and how much layers agree. Rows come from the text's second half.
class TextAnalysis {
public:
    /// Puts the needle near the start and at the end of the tokens. @param quick fewer rows.
    TextAnalysis(const ModelShape& shape, std::vector<TokenId> tokens, const std::vector<TokenId>& needle, bool quick);

    const std::vector<TokenId>& tokens() const { return tokens_; }
    QuerySample& sample() { return sample_; }

    /// An index to be measured, fits [n_layers, n_kv_heads].
    void add_variant(const std::string& name, std::vector<IndexFit> fits, bool int8, KeptQuality kept = {});

    /// Analyses a full layer. @param keys of the cached text. Scores and temperatures go into the calibration.
    void add_layer(std::uint32_t layer, const std::vector<std::uint16_t>& keys, const std::vector<IndexFit>& fits,
                   Calibration& c);
    /// Anchors, head maps and what was measured into the calibration, means into the report.
    void finish(Calibration& c, std::uint32_t n_anchors, CalibrationReport& report);

private:
    struct Variant {
        IndexQuality quality;
        std::vector<IndexFit> fits;
        bool int8 = false;
        KeptQuality kept;
        std::vector<float> masses, recalls;  ///< [n_layers, n_heads]; -1 where nothing was measured
    };
    std::vector<std::size_t> retrieval_heads(const Calibration& c) const;
    void add_kv_head(std::uint32_t layer, std::uint32_t kv_head, const Rows& keys, const IndexFit& fit, Calibration& c);

    FilterQuality filter_of(const IndexFit& fit, const Calibration& c, std::size_t head, const Rows& keys,
                            const std::vector<Rows>& queries, const std::vector<Rows>& attention) const;
    void report_filter(std::uint32_t index_dim, CalibrationReport& report) const;

    const ModelShape& shape_;
    std::vector<TokenId> tokens_;
    std::uint32_t n_needle_, needle_at_;
    Candidates candidates_;
    std::vector<std::uint32_t> rows_, few_rows_;  ///< positions judged; every fourth of them
    QuerySample sample_;                          ///< rows_, then the end needle
    LayerSimilarity similarity_;
    std::vector<Variant> variants_;
    std::vector<float> captured_;         ///< [n_layers, n_kv_heads]; negative where nothing was measured
    SparsePolicy hisa_;                   ///< the preset, untuned
    std::vector<FilterQuality> filters_;  ///< [n_layers, n_kv_heads], means over few_rows_
};

}  // namespace winnow
