// SPDX-License-Identifier: Apache-2.0
// What the filter of hisa, by codes or by blocks, costs its own indexer: the set that both choose, and the bytes that
// they read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <span>

#include "models/calibration/block_filter.h"
#include "models/calibration/code_fit.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/random.h"
#include "winnow/attention.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kTokens = 32768, kDim = 64, kIndexDim = 16, kHeads = 3;

// Keys whose subject drifts, as that of a text does: a slow walk of about 1,000 tokens' memory that all dimensions
// follow, and noise of its own for each token. Queries ask for the subject of some place.
struct DriftingText {
    DriftingText() {
        ReplicableRng rng(11);
        constexpr float kMemory = 0.999f;
        std::vector<float> subject = rng.normals(kDim, 0, 1);
        for (std::uint32_t t = 0; t < kTokens; ++t) {
            for (std::uint32_t i = 0; i < kDim; ++i) {
                subject[i] = kMemory * subject[i] + std::sqrt(1 - kMemory * kMemory) * rng.normal();
                keys.push_back(subject[i] + rng.normal(0, 0.5f));
            }
            if (t == kTokens / 3)
                for (std::uint32_t h = 0; h < kHeads; ++h)
                    for (std::uint32_t i = 0; i < kDim; ++i) query.push_back(subject[i] + rng.normal(0, 0.3f));
        }
    }
    std::vector<float> keys, query;
};

// Both projections take the first dimensions.
std::shared_ptr<const std::vector<float>> first_dimensions() {
    auto maps = std::make_shared<std::vector<float>>(2 * kIndexDim * kDim, 0.0f);
    for (std::uint32_t side = 0; side < 2; ++side)
        for (std::uint32_t r = 0; r < kIndexDim; ++r) (*maps)[(side * kIndexDim + r) * kDim + r] = 2;
    return maps;
}

// Of the index keys of every 16th token.
IndexCodes codes_of(const DriftingText& text) {
    Rows samples(kTokens / 16, kIndexDim);
    for (std::uint32_t t = 0; t < kTokens / 16; ++t)
        for (std::uint32_t r = 0; r < kIndexDim; ++r) samples(t, r) = 2 * text.keys[16 * t * kDim + r];
    const CodeFit fit = fit_codes(samples, Eigen::VectorXd::Ones(kIndexDim));
    return {fit.bits, fit.curves};
}

SparsePolicy hisa(IndexType type, const IndexCodes& codes = {}, const SparseOverrides& overrides = {}) {
    Calibration c;
    c.codes = codes;
    SparsePolicy p = make_preset("hisa", {false}, overrides, codes.empty() ? nullptr : &c);
    p.needs_sidecar = false;
    p.index_dim = kIndexDim;
    p.index_type = type;
    p.index_maps = first_dimensions();
    p.min_ctx = 0;
    return p;
}

std::vector<std::uint32_t> chosen(const DriftingText& text, const SparsePolicy& policy) {
    SparseAttention attention({}, {.n_heads = kHeads, .n_kv_heads = 1, .head_dim = kDim, .capacity = kTokens}, policy);
    attention.append(text.keys, text.keys);
    attention.step(text.query);
    return attention.selected(0);
}

double overlap(const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b) {
    std::vector<std::uint32_t> both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    return static_cast<double>(both.size()) / static_cast<double>(a.size() + b.size() - both.size());
}

class HisaFilterTest : public GpuTest {};

TEST_F(HisaFilterTest, ChoosesWhatTheUnfilteredIndexerChooses) {
    const DriftingText text;
    const IndexCodes codes = codes_of(text);
    for (const IndexType type : {IndexType::kF16, IndexType::kInt8}) {
        const std::vector<std::uint32_t> wanted = chosen(text, without_filter(hisa(type)));
        ASSERT_GE(wanted.size(), 1800u);  // a budget of 2048 less sinks and window
        for (const SparsePolicy& filtered : {hisa(type), hisa(type, codes)}) {
            SCOPED_TRACE(static_cast<int>(type) * 10 + static_cast<int>(filtered.levels[0].scorer));
            const double found = overlap(chosen(text, filtered), wanted);
            const double share = static_cast<double>(index_bytes(filtered, kTokens)) /
                                 static_cast<double>(index_bytes(without_filter(filtered), kTokens));
            EXPECT_GE(found, 0.99);
            // Codes take as much beside keys of half the size.
            EXPECT_LE(share, filtered.levels[0].scorer == Scorer::kCodes && type == IndexType::kInt8 ? 0.48 : 1.0 / 3);
            RecordProperty("overlap", std::to_string(found));
            RecordProperty("share_of_bytes", std::to_string(share));
        }
    }
}

// Least share of a query head's estimated attention, by exact index scores, that is on these tokens, sinks and window.
double estimated_mass(const DriftingText& text, const SparsePolicy& policy, const std::vector<std::uint32_t>& tokens) {
    std::vector<bool> attended(kTokens, false);
    for (const std::uint32_t t : tokens) attended[t] = true;
    for (std::uint32_t t = 0; t < kTokens; ++t)
        if (t < policy.sink || t >= (kTokens - policy.window) / 64 * 64) attended[t] = true;
    double least = 1;
    for (std::uint32_t h = 0; h < kHeads; ++h) {
        double all = 0, on_tokens = 0;
        for (std::uint32_t t = 0; t < kTokens; ++t) {
            double score = 0;  // of both projections, which take twice the dimension
            for (std::uint32_t r = 0; r < kIndexDim; ++r)
                score += 4 * double{text.query[h * kDim + r]} * double{text.keys[std::size_t{t} * kDim + r]};
            const double weight = std::exp(score / std::sqrt(double{kDim}) - 40);
            all += weight;
            on_tokens += attended[t] ? weight : 0;
        }
        least = std::min(least, on_tokens / all);
    }
    return least;
}

// By mass there is no number of tokens that the filter keeps: whatever holds the mass comes through. It lacks what the
// filter misjudges, a small part of what may be left out.
TEST_F(HisaFilterTest, ByMassKeepsWhatHoldsIt) {
    const DriftingText text;
    const IndexCodes codes = codes_of(text);
    for (const float mass : {0.5f, 0.9f, 0.99f}) {
        SCOPED_TRACE(mass);
        const SparsePolicy filtered = hisa(IndexType::kF16, codes, {.mass = mass});
        const std::vector<std::uint32_t> wanted = chosen(text, without_filter(filtered)), got = chosen(text, filtered);
        ASSERT_GE(estimated_mass(text, filtered, wanted), double{mass} - 1e-3);
        EXPECT_GE(estimated_mass(text, filtered, got), double{mass} - 0.1 * (1 - double{mass}));
        EXPECT_GE(overlap(got, wanted), 0.95);
        if (mass > 0.95f) {
            EXPECT_GT(got.size(), 4608u) << "as many as come through by number";
        }
    }
}

// A budget of the whole cache, for the filter too: attention is the dense one's.
TEST_F(HisaFilterTest, WholeBudgetIsDense) {
    constexpr std::uint32_t kFew = 3000;
    const DriftingText text;
    const std::span<const float> keys = std::span(text.keys).first(std::size_t{kFew} * kDim);
    const auto attended = [&](const SparsePolicy& p) {
        SparseAttention attention({}, {.n_heads = kHeads, .n_kv_heads = 1, .head_dim = kDim, .capacity = kFew}, p);
        attention.append(keys, keys);
        const std::span<const float> out = attention.step(text.query);
        EXPECT_EQ(attention.attended()[0], kFew);
        return std::vector<float>(out.begin(), out.end());
    };
    SparsePolicy whole = hisa(IndexType::kF16, codes_of(text));
    for (SelectLevel& level : whole.levels) level.budget = kFew;
    const std::vector<float> got = attended(whole), dense = attended(make_preset("dense", {false}));
    double largest = 0;
    for (const float x : dense) largest = std::max(largest, std::abs(double{x}));
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], dense[i], 1e-5 * largest);
}

}  // namespace
}  // namespace winnow::test
