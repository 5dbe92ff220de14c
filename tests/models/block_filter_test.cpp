// SPDX-License-Identifier: Apache-2.0
// The measure of what a filter costs its index: against the stages, and on sets that are known.
#include "models/calibration/block_filter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>

#include "models/calibration/code_fit.h"
#include "tests/support/code_rows.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/random.h"
#include "winnow/attention.h"

namespace winnow::test {
namespace {

// The preset with projections that take the first dimensions.
SparsePolicy hisa(std::uint32_t n_tokens, std::uint32_t head_dim, std::uint32_t index_dim) {
    SparsePolicy p = scaled_budgets(make_preset("hisa", {false}), n_tokens, 32768);
    auto maps = std::make_shared<std::vector<float>>(2 * index_dim * head_dim, 0.0f);
    for (std::uint32_t side = 0; side < 2; ++side)
        for (std::uint32_t r = 0; r < index_dim; ++r) (*maps)[(side * index_dim + r) * head_dim + r] = 1;
    p.needs_sidecar = false;
    p.index_dim = index_dim;
    p.index_maps = maps;
    p.min_ctx = 0;
    return p;
}

class BlockFilterTest : public GpuTest {};

TEST_F(BlockFilterTest, ChoosesWhatTheStagesChoose) {
    constexpr std::uint32_t kTokens = 3001, kDim = 16, kIndexDim = 8, kHeads = 3;
    ReplicableRng rng(21);
    std::vector<float> keys;
    std::vector<float> subject = rng.normals(kDim, 0, 1);
    for (std::uint32_t t = 0; t < kTokens; ++t)
        for (std::uint32_t i = 0; i < kDim; ++i) {
            subject[i] = 0.99f * subject[i] + 0.14f * rng.normal();
            keys.push_back(subject[i] + rng.normal(0, 0.7f));
        }
    const std::vector<float> query = rng.normals(kHeads * kDim, 0, 2);
    const SparsePolicy policy = hisa(kTokens, kDim, kIndexDim);

    Rows index_keys(kTokens, kIndexDim), queries(kHeads, kIndexDim);
    for (std::uint32_t t = 0; t < kTokens; ++t)
        for (std::uint32_t r = 0; r < kIndexDim; ++r)
            index_keys(t, r) = static_cast<float>(Eigen::half(keys[t * kDim + r]));
    const float scale = 1 / std::sqrt(static_cast<float>(kDim));
    for (std::uint32_t g = 0; g < kHeads; ++g)
        for (std::uint32_t r = 0; r < kIndexDim; ++r) queries(g, r) = scale * query[g * kDim + r];

    SparsePolicy by_codes = policy;
    by_codes.levels[0].scorer = Scorer::kCodes;
    by_codes.levels[0].unit = 1;
    by_codes.levels[0].budget = 250;  // few of those that codes put first
    const auto codes = std::make_shared<IndexCodes>(random_codes(1, kIndexDim, 1));
    by_codes.index_codes = codes;
    const Rows coded = coded_keys(index_keys, codes->bits.data(), codes->curves.data());

    std::vector<std::vector<std::uint32_t>> sets;
    for (const SparsePolicy& p : {policy, without_filter(policy), by_codes}) {
        SparseAttention attention({}, {.n_heads = kHeads, .n_kv_heads = 1, .head_dim = kDim, .capacity = kTokens}, p);
        attention.append(keys, keys);
        attention.step(query);
        const std::vector<std::uint32_t> stages = attention.selected(0);
        const std::vector<std::uint32_t> here = choose_by_index(p, queries, index_keys, coded, kTokens - 1);
        ASSERT_GT(stages.size(), 150u);
        EXPECT_EQ(here.size(), stages.size());
        std::vector<std::uint32_t> both;
        std::set_intersection(here.begin(), here.end(), stages.begin(), stages.end(), std::back_inserter(both));
        EXPECT_GE(both.size() + 2, stages.size());  // at the cut the stages tell scores apart by 1/2048 nat
        sets.push_back(here);
    }
    EXPECT_NE(sets[0], sets[1]);  // this text is one that the filter costs something
    EXPECT_NE(sets[2], sets[1]);  // as do these codes, of curves at random
}

// Index keys of one dimension; the hot tokens score 1 more than the others.
Rows hot_tokens(std::uint32_t n_tokens, const std::vector<std::uint32_t>& hot) {
    Rows codes = Rows::Zero(n_tokens, 1);
    for (const std::uint32_t t : hot) codes(t, 0) = 1;
    return codes;
}

TEST(BlockFilterMeasure, ScatteredTokensAreBeyondAnyBlockFilter) {
    constexpr std::uint32_t kTokens = 4096;
    SparsePolicy p = make_preset("hisa", {false});
    p.levels[0].budget = 1024;
    p.levels[1].budget = p.sink + p.window + 32;
    const Rows query = Rows::Constant(1, 1, 4), attention = Rows::Constant(1, kTokens, 1.0f / kTokens);
    std::vector<std::uint32_t> together, apart;
    for (std::uint32_t i = 0; i < 32; ++i) {
        together.push_back(640 + 2 * i);
        apart.push_back(64 + 64 * i + i);  // one in each of 32 blocks, of which 16 are kept
    }
    const FilterQuality good = measure_filter(p, query, hot_tokens(kTokens, together), {}, attention, kTokens - 1);
    EXPECT_EQ(choose_by_index(p, query, hot_tokens(kTokens, together), {}, kTokens - 1), together);
    EXPECT_EQ(good.overlap, 1);
    EXPECT_EQ(good.ceiling, 1);
    EXPECT_NEAR(good.mass, 1, 1e-6);
    const FilterQuality bad = measure_filter(p, query, hot_tokens(kTokens, apart), {}, attention, kTokens - 1);
    EXPECT_NEAR(bad.overlap, 16.0 / 48, 1e-6);
    EXPECT_NEAR(bad.ceiling, 16.0 / 48, 1e-6);
    // Where attention is on the hot tokens, half of it is lost with half of them.
    Rows sharp = Rows::Constant(1, kTokens, 1e-6f);
    for (const std::uint32_t t : apart) sharp(0, t) = 1.0f / 32;
    EXPECT_NEAR(measure_filter(p, query, hot_tokens(kTokens, apart), {}, sharp, kTokens - 1).mass, 0.5, 1e-3);
}

TEST(BlockFilterMeasure, BudgetsKeepTheirShares) {
    const SparsePolicy real = make_preset("hisa", {false}), small = scaled_budgets(real, 4096, 32768);
    EXPECT_EQ(small.levels[0].budget, real.levels[0].budget / 8);
    const std::uint32_t always = real.sink + real.window;
    EXPECT_EQ(small.levels[1].budget - always, (real.levels[1].budget - always + 4) / 8);
    EXPECT_EQ(scaled_budgets(real, 32768, 32768).levels[1].budget, real.levels[1].budget);
}

// The bar of bytes, a third at 32,768 tokens: of blocks for either type of index key, of codes for halves. Codes take
// as much beside keys of bytes, where they are nearly half.
TEST(BlockFilterMeasure, AThirdOfTheIndexIsReadAt32K) {
    const SparsePolicy blocks = make_preset("hisa", {false});
    Calibration c;
    c.codes.bits.assign(1, 0);
    const SparsePolicy codes = make_preset("hisa", {false}, {}, &c);
    ASSERT_EQ(codes.levels[0].scorer, Scorer::kCodes);
    const auto share = [](SparsePolicy p, std::uint32_t dim, IndexType type) {
        p.index_dim = dim;
        p.index_type = type;
        return static_cast<double>(index_bytes(p, 32768)) / static_cast<double>(index_bytes(without_filter(p), 32768));
    };
    for (const std::uint32_t dim : {16u, 24u, 32u, 64u}) {
        EXPECT_LE(share(blocks, dim, IndexType::kF16), 1.0 / 3) << dim;
        EXPECT_LE(share(blocks, dim, IndexType::kInt8), 1.0 / 3) << dim;
        EXPECT_LE(share(codes, dim, IndexType::kF16), 1.0 / 3) << dim;
        EXPECT_LE(share(codes, dim, IndexType::kInt8), 0.52) << dim;
    }
    SparsePolicy p = codes;
    p.index_dim = 16;
    EXPECT_EQ(index_bytes(p, 32768), 32768u * 6 + 4608 * 32);
}

}  // namespace
}  // namespace winnow::test
