// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/text_analysis.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "models/calibration/code_fit.h"

namespace winnow {
namespace {

constexpr std::uint32_t kTopTokens = 64;
constexpr std::uint32_t kRows = 64, kQuickRows = 32;
constexpr std::uint32_t kFewer = 4;  // temperatures and similarity look at one row of so many
constexpr float kMass = 0.9f;
constexpr double kLeastOverlap = 0.85;  // of the lists of a layer that reuses (HyLRA)

std::vector<std::uint32_t> every(const std::vector<std::uint32_t>& values, std::size_t stride) {
    std::vector<std::uint32_t> out;
    for (std::size_t i = 0; i < values.size(); i += stride) out.push_back(values[i]);
    return out;
}

Rows every_row(const Rows& rows, Eigen::Index n, Eigen::Index stride) {
    Rows out((n + stride - 1) / stride, rows.cols());
    for (Eigen::Index i = 0; i < out.rows(); ++i) out.row(i) = rows.row(i * stride);
    return out;
}

std::vector<std::uint32_t> judged_rows(std::uint32_t n_tokens, std::uint32_t n_needle, std::uint32_t n_rows) {
    std::vector<std::uint32_t> rows;
    const std::uint32_t begin = n_tokens / 2, end = n_tokens - n_needle;
    for (std::uint32_t i = 0; i < n_rows; ++i) rows.push_back(begin + i * (end - begin) / n_rows);
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    return rows;
}

std::vector<std::uint32_t> with_needle(std::vector<std::uint32_t> rows, std::uint32_t n_tokens,
                                       std::uint32_t n_needle) {
    for (std::uint32_t i = n_tokens - n_needle; i < n_tokens; ++i) rows.push_back(i);
    return rows;
}

std::vector<std::size_t> all_of(const std::vector<float>& values) {
    std::vector<std::size_t> all(values.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    return all;
}

// Of those values that are measured; -1 when none is.
double mean_of(const std::vector<float>& values, const std::vector<std::size_t>& which) {
    double sum = 0;
    std::size_t n = 0;
    for (const std::size_t i : which) {
        if (values[i] < 0) continue;
        sum += values[i];
        ++n;
    }
    return n == 0 ? -1 : sum / static_cast<double>(n);
}

// The preset as a calibration makes it, but for the projections and the codes themselves.
SparsePolicy hisa_with_codes(std::uint32_t head_dim) {
    Calibration c;
    c.head_dim = head_dim;
    c.codes.bits.assign(1, 0);
    return make_preset("hisa", {false}, {}, &c);
}

}  // namespace

TextAnalysis::TextAnalysis(const ModelShape& shape, std::vector<TokenId> tokens, const std::vector<TokenId>& needle,
                           bool quick)
    : shape_(shape),
      tokens_(std::move(tokens)),
      n_needle_(static_cast<std::uint32_t>(std::min(needle.size(), tokens_.size() / 16))),
      needle_at_(static_cast<std::uint32_t>(tokens_.size() / 32)),
      candidates_{4, std::min(256u, static_cast<std::uint32_t>(tokens_.size()) / 8)},
      rows_(judged_rows(static_cast<std::uint32_t>(tokens_.size()), n_needle_, quick ? kQuickRows : kRows)),
      few_rows_(every(rows_, kFewer)),
      sample_(shape, with_needle(rows_, static_cast<std::uint32_t>(tokens_.size()), n_needle_)),
      similarity_(shape, few_rows_, candidates_, kTopTokens),
      captured_(std::size_t{shape.n_layers} * shape.n_kv_heads, -1.0f),
      hisa_(hisa_with_codes(shape.head_dim)),
      filters_(captured_.size()) {
    std::copy_n(needle.begin(), n_needle_, tokens_.begin() + needle_at_);
    std::copy_n(needle.begin(), n_needle_, tokens_.end() - n_needle_);
}

void TextAnalysis::add_variant(const std::string& name, std::vector<IndexFit> fits, bool int8, KeptQuality kept) {
    Variant v;
    v.quality.name = name;
    for (const IndexFit& fit : fits)
        v.quality.index_dim = std::max(v.quality.index_dim, static_cast<std::uint32_t>(fit.b.rows()));
    v.masses.assign(std::size_t{shape_.n_layers} * shape_.n_heads, -1);
    v.recalls = v.masses;
    v.kept = kept;
    v.fits = std::move(fits);
    v.int8 = int8;
    variants_.push_back(std::move(v));
}

void TextAnalysis::add_layer(std::uint32_t layer, const std::vector<std::uint16_t>& keys,
                             const std::vector<IndexFit>& fits, Calibration& c) {
    parallel_for(shape_.n_kv_heads, [&](std::size_t h) {
        const auto kv_head = static_cast<std::uint32_t>(h);
        add_kv_head(layer, kv_head, head_rows(keys, shape_.n_kv_heads, kv_head, shape_.head_dim),
                    fits[layer * shape_.n_kv_heads + kv_head], c);
    });
}

void TextAnalysis::add_kv_head(std::uint32_t layer, std::uint32_t kv_head, const Rows& keys, const IndexFit& fit,
                               Calibration& c) {
    const std::uint32_t n_group = shape_.n_group();
    const std::size_t at = layer * shape_.n_kv_heads + kv_head;
    const auto n_rows = static_cast<Eigen::Index>(rows_.size()), few = static_cast<Eigen::Index>(kFewer);
    std::vector<Rows> few_attention, few_scores, few_queries;
    Rows pooled;
    for (std::uint32_t g = 0; g < n_group; ++g) {
        const std::size_t head = layer * shape_.n_heads + kv_head * n_group + g;
        const Rows queries = sample_.queries(layer, kv_head * n_group + g);
        const Rows p = attention(queries, keys, sample_.positions());

        double far = 0, found = 0;
        for (std::size_t r = 0; r < rows_.size(); ++r) {
            const std::uint32_t begin = candidates_.begin(), end = std::max(begin, candidates_.end(rows_[r]));
            far += p.row(static_cast<Eigen::Index>(r)).segment(begin, end - begin).sum();
        }
        // The first token of the needle cannot know that it is one.
        for (Eigen::Index r = n_rows + 1; r < p.rows(); ++r) found += p.row(r).segment(needle_at_, n_needle_).sum();
        c.far_mass[head] = static_cast<float>(far / static_cast<double>(rows_.size()));
        c.retrieval[head] = n_needle_ < 2 ? 0 : static_cast<float>(found / (n_needle_ - 1));

        const Rows judged = p.topRows(n_rows);
        for (Variant& v : variants_) {
            const SelectionQuality q =
                measure_selection(judged, index_scores(queries.topRows(n_rows), keys, v.fits[at], v.int8), rows_,
                                  candidates_, kTopTokens);
            if (q.n_rows == 0) continue;
            v.masses[head] = static_cast<float>(q.mass);
            v.recalls[head] = static_cast<float>(q.recall);
        }
        const Rows few_p = every_row(p, n_rows, few);
        if (g == 0) pooled = few_p / static_cast<float>(n_group);
        else pooled += few_p / static_cast<float>(n_group);
        few_queries.push_back(every_row(queries, n_rows, few));
        few_scores.push_back(index_scores(few_queries.back(), keys, fit));
        few_attention.push_back(few_p);
    }
    similarity_.add(layer, kv_head, pooled);
    c.temperatures[at] =
        fit_temperature(few_attention, few_scores, few_rows_, {candidates_.sink, 64}, kMass, &captured_[at]);
    if (!variants_.empty()) filters_[at] = filter_of(fit, c, at, keys, few_queries, few_attention);
}

// Of the index as the preset has it: halves, the temperature folded into the query's side.
FilterQuality TextAnalysis::filter_of(const IndexFit& fit, const Calibration& c, std::size_t head, const Rows& keys,
                                      const std::vector<Rows>& queries, const std::vector<Rows>& attention) const {
    const Rows index_keys = (keys * fit.b.transpose()).cast<Eigen::half>().cast<float>();
    const std::size_t first_dim = head * c.index_dim;
    const Rows coded =
        coded_keys(index_keys, c.codes.bits.data() + first_dim, c.codes.curves.data() + first_dim * kCodeTerms);
    const auto n_group = static_cast<Eigen::Index>(queries.size());
    FilterQuality mean;
    for (std::size_t r = 0; r < few_rows_.size(); ++r) {
        Rows index_queries(n_group, index_keys.cols()), p(n_group, keys.rows());
        for (Eigen::Index g = 0; g < n_group; ++g) {
            const auto at = static_cast<std::size_t>(g);
            index_queries.row(g) =
                c.temperatures[head] * (queries[at].row(static_cast<Eigen::Index>(r)) * fit.a.transpose());
            p.row(g) = attention[at].row(static_cast<Eigen::Index>(r));
        }
        const SparsePolicy scaled = scaled_budgets(hisa_, few_rows_[r] + 1, kFilterContext);
        const FilterQuality one = measure_filter(scaled, index_queries, index_keys, coded, p, few_rows_[r]);
        mean.overlap += one.overlap;
        mean.ceiling += one.ceiling;
        mean.mass += one.mass;
        ++mean.n_positions;
    }
    const auto n = static_cast<double>(std::max<std::uint32_t>(mean.n_positions, 1));
    return {mean.overlap / n, mean.ceiling / n, mean.mass / n, mean.n_positions};
}

void TextAnalysis::report_filter(std::uint32_t index_dim, CalibrationReport& report) const {
    FilterReport f;
    f.least = 1;
    for (const FilterQuality& q : filters_) {
        if (q.n_positions == 0) continue;
        f.overlap += q.overlap;
        f.mass += q.mass;
        f.least = std::min(f.least, q.overlap);
        ++f.n_heads;
    }
    if (f.n_heads == 0) return;
    f.overlap /= f.n_heads;
    f.mass /= f.n_heads;
    SparsePolicy hisa = hisa_;
    hisa.index_dim = index_dim;
    f.bytes_share = static_cast<double>(index_bytes(hisa, kFilterContext)) /
                    static_cast<double>(index_bytes(without_filter(hisa), kFilterContext));
    report.filter = f;
}

// The 15 % of the query heads that find the needle best.
std::vector<std::size_t> TextAnalysis::retrieval_heads(const Calibration& c) const {
    std::vector<std::size_t> heads;
    for (std::size_t h = 0; h < c.retrieval.size(); ++h)
        if (shape_.layers[h / shape_.n_heads].window == 0) heads.push_back(h);
    std::stable_sort(heads.begin(), heads.end(),
                     [&](std::size_t a, std::size_t b) { return c.retrieval[a] > c.retrieval[b]; });
    heads.resize(std::max<std::size_t>(heads.size() * 15 / 100, std::min<std::size_t>(heads.size(), 1)));
    return heads;
}

void TextAnalysis::finish(Calibration& c, std::uint32_t n_anchors, CalibrationReport& report) {
    similarity_.choose_anchors(c, n_anchors);
    similarity_.choose_refreshes(c, kLeastOverlap);
    report.captured = mean_of(captured_, all_of(captured_));
    if (!variants_.empty()) c.captured_mass = captured_;
    report_filter(c.index_dim, report);
    const std::vector<std::size_t> retrieving = retrieval_heads(c);
    for (Variant& v : variants_) {
        const std::vector<std::size_t> all = all_of(v.masses);
        if (mean_of(v.masses, all) < 0) continue;
        v.quality.mass = mean_of(v.masses, all);
        v.quality.recall = mean_of(v.recalls, all);
        v.quality.retrieval_mass = mean_of(v.masses, retrieving);
        v.quality.retrieval_recall = mean_of(v.recalls, retrieving);
        report.indexes.push_back(v.quality);
        if (v.kept.mass != nullptr) c.*v.kept.mass = v.masses;
        if (v.kept.recall != nullptr) c.*v.kept.recall = v.recalls;
    }
}

}  // namespace winnow
