// SPDX-License-Identifier: Apache-2.0
// What the block filter of hisa costs its own indexer (arXiv 2603.28458): the set that both choose, and the bytes that
// they read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>

#include "runtime/attention/indexer_score.h"
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

SparsePolicy hisa(IndexType type) {
    SparsePolicy p = make_preset("hisa", {false});
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

// Bytes of sums and index keys that a chain of levels reads at its budgets.
std::uint64_t index_bytes(const SparsePolicy& policy) {
    std::uint64_t bytes = 0, candidates = kTokens;
    for (const SelectLevel& level : policy.levels) {
        IndexerScore::Config c{.n_heads = kHeads,
                               .n_kv_heads = 1,
                               .head_dim = kDim,
                               .level = level,
                               .index_dim = kIndexDim,
                               .index_type = policy.index_type};
        bytes += IndexerScore::bytes_moved(c, candidates);
        candidates = std::min<std::uint64_t>(candidates, level.budget);
    }
    return bytes;
}

class HisaFilterTest : public GpuTest {};

TEST_F(HisaFilterTest, ChoosesWhatTheUnfilteredIndexerChooses) {
    const DriftingText text;
    for (const IndexType type : {IndexType::kF16, IndexType::kInt8}) {
        const SparsePolicy filtered = hisa(type);
        SparsePolicy unfiltered = filtered;
        unfiltered.levels.erase(unfiltered.levels.begin());
        const std::vector<std::uint32_t> a = chosen(text, filtered), b = chosen(text, unfiltered);
        ASSERT_GE(b.size(), 1800u);  // a budget of 2048 less sinks and window
        std::vector<std::uint32_t> both;
        std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
        const double overlap =
            static_cast<double>(both.size()) / static_cast<double>(a.size() + b.size() - both.size());
        EXPECT_GE(overlap, 0.99) << "index type " << static_cast<int>(type);
        const double share = static_cast<double>(index_bytes(filtered)) / static_cast<double>(index_bytes(unfiltered));
        EXPECT_LE(share, 1.0 / 3) << "index type " << static_cast<int>(type);
        RecordProperty("overlap", std::to_string(overlap));
        RecordProperty("share_of_bytes", std::to_string(share));
    }
}

}  // namespace
}  // namespace winnow::test
