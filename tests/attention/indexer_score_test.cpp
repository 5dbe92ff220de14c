// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/indexer_score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "tests/support/select_rig.h"

namespace winnow::test {
namespace {

SelectLevel top_p(Scorer scorer, std::uint32_t unit, float mass) {
    return {.scorer = scorer, .unit = unit, .rule = BudgetRule::kTopP, .mass = mass};
}
SelectLevel top_k(Scorer scorer, std::uint32_t unit, std::uint32_t budget) {
    return {.scorer = scorer, .unit = unit, .rule = BudgetRule::kTopK, .budget = budget};
}
SelectLevel threshold(Scorer scorer, std::uint32_t unit, float least) {
    return {.scorer = scorer, .unit = unit, .rule = BudgetRule::kThreshold, .threshold = least};
}

class IndexerScoreTest : public GpuTest {
protected:
    static void TearDownTestSuite() { stages_.clear(); }
    static SelectRig rig(const SelectCase& c, TestCache cache) { return {device(), stages_, c, std::move(cache)}; }
    static SelectRig rig(const SelectCase& c) { return rig(c, TestCache(c.shape)); }
    static void check(const SelectCase& c) {
        SelectRig r = rig(c);
        r.run();
        r.expect_right();
    }

private:
    static SelectStages stages_;
};
SelectStages IndexerScoreTest::stages_;

constexpr std::uint32_t kLengths[] = {1, 63, 64, 65, 1023, 1024, 1025, 8192};

TEST_F(IndexerScoreTest, KeepsTheRightTokensAtEveryLength) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        for (const std::uint32_t n : kLengths) {
            for (const SelectLevel& level :
                 {top_p(Scorer::kExact, 1, 0.9f), top_k(Scorer::kExact, 1, 100), threshold(Scorer::kExact, 1, 1e-3f)})
                check({.shape = {.n_tokens = n, .kv_type = type}, .levels = {level}, .window = 1});
        }
    }
}

// Compiling a pipeline is what takes time here: each value of every axis, not each combination.
TEST_F(IndexerScoreTest, EveryHeadShape) {
    for (const CacheShape& shape : {CacheShape{700, 64, 1, KvType::kF16},
                                    {700, 64, 7, KvType::kF32},
                                    {700, 80, 3, KvType::kF32},
                                    {700, 80, 4, KvType::kF16},
                                    {700, 128, 4, KvType::kF32},
                                    {700, 128, 7, KvType::kF16},
                                    {700, 256, 1, KvType::kF16},
                                    {700, 256, 3, KvType::kF32},
                                    {700, 64, 3, KvType::kQ8_0},
                                    {700, 80, 1, KvType::kQ4_0}})
        check({.shape = shape, .levels = {top_p(Scorer::kExact, 1, 0.8f)}});
}

TEST_F(IndexerScoreTest, EveryScorer) {
    struct Variant {
        SelectLevel level;
        KvType type;
        HeadPool pool;
    };
    constexpr KvType f16 = KvType::kF16, f32 = KvType::kF32;
    constexpr HeadPool max = HeadPool::kMax, mean = HeadPool::kMean;
    for (const Variant& v : {Variant{top_k(Scorer::kBox, 16, 256), f16, max},
                             {top_k(Scorer::kBox, 32, 256), f32, mean},
                             {top_k(Scorer::kBox, 1024, 1024), f16, mean},
                             {top_k(Scorer::kMean, 16, 256), f32, max},
                             {top_p(Scorer::kMean, 64, 0.8f), f16, mean},
                             {top_k(Scorer::kMean, 1024, 1024), f32, max},
                             {top_p(Scorer::kExact, 1, 0.8f), f16, mean},
                             {top_p(Scorer::kExact, 1, 0.8f), f16, HeadPool::kEach},
                             {top_p(Scorer::kLowdim, 1, 0.8f), f32, mean},
                             {top_p(Scorer::kLowdimMean, 32, 0.8f), f16, max}})
        for (const std::uint32_t n : kLengths)
            check({.shape = {.n_tokens = n, .kv_type = v.type},
                   .levels = {v.level},
                   .pool = v.pool,
                   .window = 1,
                   .index_dim = 16});
}

// Compiling takes seconds on lavapipe, most of it for wide heads of large groups: one value of each axis.
TEST_F(IndexerScoreTest, EveryHeadShapeByBlocks) {
    const auto shape = [](std::uint32_t dim, std::uint32_t group, KvType type) {
        return CacheShape{.n_tokens = 1500, .head_dim = dim, .n_group = group, .kv_type = type};
    };
    constexpr KvType f16 = KvType::kF16, f32 = KvType::kF32;
    check({.shape = shape(80, 7, f16), .levels = {top_p(Scorer::kBox, 32, 0.8f)}});
    check({.shape = shape(128, 4, f16), .levels = {top_k(Scorer::kBox, 64, 300)}});
    check({.shape = shape(256, 1, f32), .levels = {top_k(Scorer::kBox, 16, 200)}});
    check({.shape = shape(80, 4, f32), .levels = {top_k(Scorer::kMean, 16, 200)}});
    check({.shape = shape(128, 1, f16), .levels = {top_p(Scorer::kMean, 64, 0.8f)}});
    check({.shape = shape(256, 3, f16), .levels = {top_k(Scorer::kMean, 1024, 1024)}});
}

TEST_F(IndexerScoreTest, EveryPoolAtEveryGroup) {
    const auto at = [](std::uint32_t group) { return CacheShape{.n_tokens = 1500, .n_group = group}; };
    check({.shape = at(1), .levels = {top_p(Scorer::kExact, 1, 0.8f)}, .pool = HeadPool::kMean});
    check({.shape = at(4), .levels = {top_k(Scorer::kExact, 1, 200)}, .pool = HeadPool::kMean});
    check({.shape = at(7), .levels = {top_p(Scorer::kExact, 1, 0.8f)}, .pool = HeadPool::kMean});
    check({.shape = at(1), .levels = {top_k(Scorer::kExact, 1, 200)}, .pool = HeadPool::kEach});
    check({.shape = at(4), .levels = {top_p(Scorer::kExact, 1, 0.8f)}, .pool = HeadPool::kEach});
    check({.shape = at(7), .levels = {top_k(Scorer::kExact, 1, 200)}, .pool = HeadPool::kEach});
}

TEST_F(IndexerScoreTest, ThresholdsOfEveryKind) {
    const CacheShape f16{.n_tokens = 1500}, f32{.n_tokens = 1500, .kv_type = KvType::kF32};
    check({.shape = f16, .levels = {threshold(Scorer::kExact, 1, 1e-3f)}, .pool = HeadPool::kMean});
    check({.shape = f32, .levels = {threshold(Scorer::kMean, 32, 5e-4f)}, .pool = HeadPool::kEach});
    check({.shape = f32, .levels = {threshold(Scorer::kLowdim, 1, 1e-3f)}, .index_dim = 16});
    // A threshold that next to nothing reaches, and a floor below it.
    SelectLevel least = threshold(Scorer::kExact, 1, 0.5f);
    least.budget_min = 300;
    check({.shape = f16, .levels = {least}});
    least.budget = 200;
    check({.shape = f32, .levels = {least}});
}

// The budget and one more or less: of the tokens in the cache, and of those that can be chosen at all.
// So few rows that the last workgroup holds all of them at once: the shader then has no loop over tiles.
TEST_F(IndexerScoreTest, RowsOfOneTile) {
    for (const std::uint32_t n : {100u, 1500u, 2000u}) {
        for (const std::uint32_t budget : {1u, 33u, 700u, 100000u})
            check({.shape = {.n_tokens = n}, .levels = {top_k(Scorer::kMean, 32, budget)}, .max_rows = 64});
        check({.shape = {.n_tokens = n}, .levels = {top_p(Scorer::kMean, 32, 0.7f)}, .sinks = 40, .max_rows = 64});
    }
}

TEST_F(IndexerScoreTest, AroundTheBudget) {
    for (const std::uint32_t n : {1023u, 1024u, 1025u}) {
        check({.shape = {.n_tokens = n}, .levels = {top_k(Scorer::kExact, 1, 1024)}, .window = 1});
        check({.shape = {.n_tokens = n}, .levels = {top_k(Scorer::kMean, 32, 1024)}, .window = 1});
    }
    const CacheShape shape{.n_tokens = 1500};
    for (const HeadPool pool : {HeadPool::kMax, HeadPool::kEach}) {
        for (const std::uint32_t budget : {1467u, 1468u, 1469u}) {
            SelectRig r =
                rig({.shape = shape, .levels = {top_k(Scorer::kExact, 1, budget)}, .pool = pool, .window = 1});
            r.run();
            ASSERT_EQ(r.view().middle_end() - 4, 1468u);
            r.expect_right();
            for (std::uint32_t h = 0; pool == HeadPool::kMax && h < 2; ++h)
                EXPECT_EQ(r.control(0, h).n_tokens, std::min(budget, 1468u));
        }
    }
}

TEST_F(IndexerScoreTest, IndexKeysOfOtherWidths) {
    for (const std::uint32_t dim : {8u, 64u})
        check({.shape = {.n_tokens = 777, .head_dim = 128, .n_group = 4},
               .levels = {top_k(Scorer::kLowdimMean, 64, 300), top_p(Scorer::kLowdim, 1, 0.5f)},
               .index_dim = dim});
}

TEST_F(IndexerScoreTest, IndexKeysOfEightBits) {
    for (const auto& [dim, head_dim] : {std::pair{8u, 64u}, {16u, 64u}, {32u, 128u}, {64u, 128u}}) {
        for (const std::uint32_t n : {65u, 1025u, 2300u}) {
            const CacheShape shape{.n_tokens = n, .head_dim = head_dim};
            check({.shape = shape,
                   .levels = {top_p(Scorer::kLowdim, 1, 0.8f)},
                   .index_dim = dim,
                   .index_type = IndexType::kInt8});
            check({.shape = shape,
                   .levels = {top_k(Scorer::kLowdimMean, 64, std::max(n / 4, 1u)), top_k(Scorer::kLowdim, 1, 64)},
                   .index_dim = dim,
                   .index_type = IndexType::kInt8});
        }
    }
}

// A level of codes alone, and above the keys that they are of: the list of one is the rows of the other.
TEST_F(IndexerScoreTest, CodesOfIndexKeys) {
    for (const std::uint32_t n : kLengths) {
        const CacheShape shape{.n_tokens = n};
        const std::vector<SelectLevel> filter{top_k(Scorer::kCodes, 1, std::max(n / 4, 1u)),
                                              top_k(Scorer::kLowdim, 1, 64)};
        check({.shape = shape, .levels = {top_p(Scorer::kCodes, 1, 0.8f)}, .window = 1, .index_dim = 16});
        check({.shape = shape, .levels = filter, .window = 1, .index_dim = 16});
        check({.shape = shape, .levels = filter, .index_dim = 16, .rows_choose_codes = true});
    }
    for (const auto& [dim, head_dim, group] :
         {std::tuple{8u, 64u, 1u}, {24u, 96u, 3u}, {32u, 128u, 4u}, {64u, 256u, 2u}})
        check({.shape = {.n_tokens = 1500, .head_dim = head_dim, .n_group = group},
               .levels = {top_k(Scorer::kCodes, 1, 500), top_p(Scorer::kLowdim, 1, 0.5f)},
               .index_dim = dim});
    check({.shape = {.n_tokens = 1500, .kv_type = KvType::kQ8_0},
           .levels = {top_k(Scorer::kCodes, 1, 500), top_k(Scorer::kLowdim, 1, 64)},
           .index_dim = 16,
           .index_type = IndexType::kInt8});
}

TEST_F(IndexerScoreTest, LevelsNest) {
    for (const std::uint32_t n : {64u, 1024u, 1025u, 2049u, 3500u, 8192u}) {
        const CacheShape shape{.n_tokens = n};
        const std::uint32_t half = std::max(n / 2, 1u), quarter = std::max(n / 4, 1u);
        check({.shape = shape, .levels = {top_k(Scorer::kBox, 16, quarter), top_p(Scorer::kExact, 1, 0.5f)}});
        check({.shape = shape,
               .levels = {top_k(Scorer::kBox, 16, quarter), top_p(Scorer::kExact, 1, 0.5f)},
               .pool = HeadPool::kEach});
        check({.shape = shape, .levels = {top_k(Scorer::kMean, 1024, half), top_k(Scorer::kExact, 1, 64)}});
        check({.shape = shape,
               .levels = {top_k(Scorer::kBox, 1024, half), top_k(Scorer::kBox, 64, quarter),
                          top_p(Scorer::kExact, 1, 0.5f)}});
        check({.shape = shape, .levels = {top_p(Scorer::kMean, 1024, 0.9f), top_p(Scorer::kMean, 32, 0.9f)}});
        check({.shape = shape,
               .levels = {top_k(Scorer::kLowdimMean, 64, quarter), top_k(Scorer::kLowdim, 1, 64)},
               .index_dim = 16});
    }
}

TEST_F(IndexerScoreTest, LimitsOfTheBudget) {
    const CacheShape shape{.n_tokens = 1500};
    for (const std::uint32_t unit : {1u, 32u}) {
        const Scorer scorer = unit == 1 ? Scorer::kExact : Scorer::kMean;
        for (const std::uint32_t budget : {1u, 31u, 33u, 1000u, 100000u}) {
            check({.shape = shape, .levels = {top_k(scorer, unit, budget)}});
            SelectLevel both = top_p(scorer, unit, 0.9f);
            both.budget = budget;
            check({.shape = shape, .levels = {both}});
            SelectLevel few = threshold(scorer, unit, 1e-4f);
            few.budget = budget;
            SelectRig r = rig({.shape = shape, .levels = {few}});
            r.run();
            r.expect_right();
        }
        check({.shape = shape, .levels = {top_k(scorer, unit, 200)}, .pool = HeadPool::kEach});
        SelectLevel least = top_p(scorer, unit, 0.1f);
        least.budget_min = 500;
        check({.shape = shape, .levels = {least}});
        SelectLevel share = top_k(scorer, unit, 32);
        share.budget_share = 0.25f;
        check({.shape = shape, .levels = {share}});
    }
}

TEST_F(IndexerScoreTest, WholeMassKeepsEverything) {
    for (const std::uint32_t n : {65u, 1025u, 4000u}) {
        for (const std::uint32_t unit : {1u, 16u}) {
            SelectRig r = rig({.shape = {.n_tokens = n, .spread = 8},
                               .levels = {top_p(unit == 1 ? Scorer::kExact : Scorer::kBox, unit, 1)}});
            r.run();
            r.expect_right();
            for (std::uint32_t h = 0; h < 2; ++h) EXPECT_EQ(r.control(0, h).n_tokens, r.view().middle_end() - 4);
        }
    }
}

TEST_F(IndexerScoreTest, SinksWindowAndOpenBlockAreNeverListed) {
    for (const std::uint32_t sinks : {0u, 1u, 64u, 100u, 2000u}) {
        for (const std::uint32_t window : {0u, 1u, 65u, 1000u, 5000u, 0xffffffffu}) {
            for (const std::uint32_t unit : {1u, 64u}) {
                SelectRig r = rig({.shape = {.n_tokens = 1111},
                                   .levels = {top_p(unit == 1 ? Scorer::kExact : Scorer::kMean, unit, 1)},
                                   .sinks = sinks,
                                   .window = window});
                r.run();
                r.expect_right();
                for (const std::uint32_t entry : r.list(0, 1)) {  // a unit may hold sinks as well, never the window
                    ASSERT_GE((entry + 1) * unit, sinks + 1);
                    ASSERT_LT(std::uint64_t{entry} * unit + window, 1111u);
                    ASSERT_LT(entry * unit, 1110 / kBlock * kBlock);
                }
            }
        }
    }
}

TEST_F(IndexerScoreTest, EqualScoresFallToLowerIds) {
    TestCache cache({.n_tokens = 1500});
    for (std::uint32_t h = 0; h < 2; ++h)
        for (std::uint32_t t = 0; t < 1500; ++t)
            std::fill_n(cache.keys.begin() + static_cast<std::ptrdiff_t>(cache.key_at(h, t)), 64, 0.5f);
    SelectRig k = rig({.shape = cache.shape, .levels = {top_k(Scorer::kExact, 1, 100)}}, cache);
    k.run();
    k.expect_right();
    const std::vector<std::uint32_t> list = k.list(0, 0);
    ASSERT_EQ(list.size(), 100u);
    EXPECT_EQ(list.front(), 4u);
    EXPECT_EQ(list.back(), 103u);
    SelectRig p = rig({.shape = cache.shape, .levels = {top_p(Scorer::kExact, 1, 0.9f)}}, cache);
    p.run();
    p.expect_right();  // all tie: all are kept
    SelectRig levels =
        rig({.shape = cache.shape, .levels = {top_k(Scorer::kBox, 64, 256), top_p(Scorer::kExact, 1, 0.9f)}}, cache);
    levels.run();
    levels.expect_right();  // what the blocks dropped counts in the next level's mass
}

TEST_F(IndexerScoreTest, OneTokenDominates) {
    TestCache cache({.n_tokens = 2000});
    for (std::uint32_t h = 0; h < 2; ++h)
        for (std::size_t i = 0; i < 64; ++i)
            cache.keys[cache.key_at(h, 777) + i] = cache.query[h * 3 * 64 + i] > 0 ? 8.0f : -8.0f;
    SelectRig r = rig({.shape = cache.shape, .levels = {top_p(Scorer::kExact, 1, 0.5f)}}, cache);
    r.run();
    r.expect_right();
    SelectRig far = rig({.shape = cache.shape, .levels = {top_k(Scorer::kExact, 1, 700)}}, cache);  // into the last bin
    far.run();
    far.expect_right();
    for (std::uint32_t h = 0; h < 2; ++h) {
        const auto list = far.list(0, h);
        EXPECT_TRUE(std::binary_search(list.begin(), list.end(), 777u));
    }
}

TEST_F(IndexerScoreTest, ListsServeForAWhile) {
    TestCache cache({.n_tokens = 1300});
    SelectRig r = rig(
        {.shape = cache.shape, .levels = {top_k(Scorer::kBox, 16, 400), top_p(Scorer::kExact, 1, 0.5f)}, .refresh = 10},
        cache);
    r.run(1280);
    const auto first = r.list_words();
    std::vector<float> turned = cache.query;
    for (float& q : turned) q = -q;
    r.set_query(turned);
    r.run(1289);  // nine tokens later: the query does not matter
    EXPECT_EQ(r.list_words(), first);
    EXPECT_EQ(r.control(1, 0).n_selected_at, 1281u);
    EXPECT_EQ(r.control(1, 0).middle_end, 1216u);
    r.run(1290);
    EXPECT_EQ(r.control(1, 0).n_selected_at, 1291u);
    EXPECT_EQ(r.control(0, 1).n_selected_at, 1291u);
    EXPECT_NE(r.list_words(), first);
    r.run(1285);  // the cache was cut: a list of later tokens is not believed
    EXPECT_EQ(r.control(1, 0).n_selected_at, 1286u);
}

TEST_F(IndexerScoreTest, TurnedQueriesSelectAnew) {
    TestCache cache({.n_tokens = 1300});
    SelectRig r =
        rig({.shape = cache.shape, .levels = {top_p(Scorer::kExact, 1, 0.5f)}, .refresh = 1000, .cosine = 0.9f}, cache);
    r.run(1280);
    std::vector<float> near = cache.query;  // kv head 0 turns a little, kv head 1 a lot: cosine 0.995 and 0.6
    const std::size_t half = near.size() / 2;
    for (std::size_t i = 0; i + 1 < half; i += 2) near[i] += 0.1f * near[i + 1];
    ReplicableRng rng(5);
    for (std::size_t i = half; i < near.size(); ++i) near[i] = 0.6f * near[i] + 0.8f * rng.normal(0, 0.25f);
    r.set_query(near);
    r.run(1281);
    EXPECT_EQ(r.control(0, 0).n_selected_at, 1281u);
    EXPECT_EQ(r.control(0, 1).n_selected_at, 1282u);
}

TEST_F(IndexerScoreTest, WindowedHeadsSelectNothing) {
    TestCache cache({.n_tokens = 900});
    cache.set_window(1, 100, 4);
    SelectRig r =
        rig({.shape = cache.shape, .levels = {top_k(Scorer::kBox, 32, 500), top_p(Scorer::kExact, 1, 0.9f)}}, cache);
    r.run();
    r.expect_right();
    EXPECT_EQ(r.control(1, 1).n_selected_at, 0u);
}

TEST_F(IndexerScoreTest, GivesTheSameBitsTwice) {
    const SelectCase c{.shape = {.n_tokens = 8000, .n_group = 4},
                       .levels = {top_k(Scorer::kBox, 64, 4000), top_p(Scorer::kExact, 1, 0.9f)}};
    SelectRig a = rig(c), b = rig(c);
    a.run();
    b.run();
    EXPECT_EQ(a.list_words(), b.list_words());
    a.run();
    EXPECT_EQ(a.list(1, 0), b.list(1, 0));
}

TEST_F(IndexerScoreTest, DoesNothingWhenStopped) {
    SelectRig r = rig({.shape = {.n_tokens = 900},
                       .levels = {top_k(Scorer::kLowdimMean, 64, 500), top_p(Scorer::kLowdim, 1, 0.9f)},
                       .index_dim = 16});
    const auto keys = r.index_keys();
    r.run(899, true);
    r.expect_untouched();
    const auto after = r.index_keys();
    EXPECT_EQ(std::memcmp(after.data(), keys.data(), keys.size() * 4), 0);  // NaN where nothing is
}

}  // namespace
}  // namespace winnow::test
