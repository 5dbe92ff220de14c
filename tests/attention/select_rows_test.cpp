// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/select_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "tests/support/select_rig.h"
#include "winnow/error.h"

namespace winnow::test {
namespace {

SelectLevel tokens(BudgetRule rule, float mass, std::uint32_t budget, float threshold = 0) {
    return {.scorer = Scorer::kExact, .unit = 1, .rule = rule, .mass = mass, .budget = budget, .threshold = threshold};
}
SelectLevel top_p(float mass, std::uint32_t budget = 0) { return tokens(BudgetRule::kTopP, mass, budget); }
SelectLevel top_k(std::uint32_t budget) { return tokens(BudgetRule::kTopK, 1, budget); }
SelectLevel blocks(std::uint32_t unit, std::uint32_t budget) {
    return {.scorer = Scorer::kBox, .unit = unit, .rule = BudgetRule::kTopK, .budget = budget};
}

SelectLevel codes(BudgetRule rule, float mass, std::uint32_t budget) {
    return {.scorer = Scorer::kCodes, .unit = 1, .rule = rule, .mass = mass, .budget = budget};
}

class SelectRowsTest : public GpuTest {
protected:
    static void TearDownTestSuite() { stages_.clear(); }
    static SelectRig rig(SelectCase c, TestCache cache) {
        c.chooser = Chooser::kRows;
        return {device(), stages_, c, std::move(cache)};
    }
    static SelectRig rig(const SelectCase& c) { return rig(c, TestCache(c.shape)); }
    static void check(const SelectCase& c) {
        SelectRig r = rig(c);
        r.run();
        r.expect_right();
    }
    /// In one dispatch, whose workgroups wait for each other. Without patience all but the last give up and count all
    /// rows: whoever waited, the words are those of two dispatches, and bins and counters are zero again.
    static void check_waiting(SelectCase c, const TestCache& cache) {
        SelectRig two = rig(c, cache);
        two.run();
        two.expect_right();
        c.rows_wait = true;
        for (const std::uint32_t patience : {0u, 30000u}) {
            SCOPED_TRACE(fmt::format("{} patience {}", c.shape.text(), patience));
            c.patience = patience;
            SelectRig one = rig(c, cache);
            for (int turn = 0; turn < 2; ++turn) {
                one.run();
                one.expect_right();
                EXPECT_EQ(one.list_words(), two.list_words());
                for (std::size_t level = 0; level < c.levels.size(); ++level)
                    for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h)
                        EXPECT_EQ(one.control(level, h).n_tokens, two.control(level, h).n_tokens);
            }
        }
    }
    static void check_waiting(const SelectCase& c) { check_waiting(c, TestCache(c.shape)); }

private:
    static SelectStages stages_;
};
SelectStages SelectRowsTest::stages_;

// Around the ends of blocks, of the words of ranks and of the three ranges.
constexpr std::uint32_t kLengths[] = {1, 63, 64, 65, 69, 129, 1023, 1024, 1025, 3072, 8192};

TEST_F(SelectRowsTest, KeepsTheRightTokensAtEveryLength) {
    for (const std::uint32_t n : kLengths) {
        for (const SelectLevel& level : {top_p(0.9f), top_k(100), tokens(BudgetRule::kThreshold, 1, 0, 1e-3f)})
            check({.shape = {.n_tokens = n}, .levels = {level}, .window = 1});
    }
}

TEST_F(SelectRowsTest, EveryGroup) {
    for (const std::uint32_t group : {1u, 3u, 4u, 7u, 8u}) {
        for (const HeadPool pool : {HeadPool::kMax, HeadPool::kMean}) {
            check({.shape = {.n_tokens = 1900, .n_group = group}, .levels = {top_p(0.8f)}, .pool = pool});
            check({.shape = {.n_tokens = 1900, .n_group = group}, .levels = {top_k(300)}, .pool = pool});
        }
    }
}

TEST_F(SelectRowsTest, ChildrenOfBlocks) {
    for (const std::uint32_t n : {64u, 1025u, 3500u, 8192u}) {
        const CacheShape shape{.n_tokens = n};
        const std::uint32_t quarter = std::max(n / 4, 1u);
        check({.shape = shape, .levels = {blocks(16, quarter), top_p(0.5f)}});
        check({.shape = shape, .levels = {blocks(1024, 2 * quarter), blocks(64, quarter), top_k(64)}});
    }
}

// What a level above the last leaves out is in the next one's denominators.
TEST_F(SelectRowsTest, LevelsThatOthersFollow) {
    const SelectLevel last{.scorer = Scorer::kLowdim, .unit = 1, .rule = BudgetRule::kTopP, .mass = 0.5f};
    for (const std::uint32_t n : {65u, 1025u, 3500u, 8192u})
        for (const SelectLevel& first :
             {codes(BudgetRule::kTopK, 1, n / 4), codes(BudgetRule::kTopK, 1, n), codes(BudgetRule::kTopP, 0.7f, 0)})
            check({.shape = {.n_tokens = n}, .levels = {first, last}, .index_dim = 16, .rows_choose_codes = true});
    for (const std::uint32_t group : {1u, 4u, 7u})
        check({.shape = {.n_tokens = 1900, .n_group = group},
               .levels = {codes(BudgetRule::kTopK, 1, 300), last},
               .pool = HeadPool::kMean,
               .index_dim = 16,
               .rows_choose_codes = true});
}

TEST_F(SelectRowsTest, LimitsOfTheBudget) {
    const CacheShape shape{.n_tokens = 1500};
    for (const std::uint32_t budget : {1u, 31u, 33u, 1000u, 100000u}) {
        check({.shape = shape, .levels = {top_k(budget)}});
        check({.shape = shape, .levels = {top_p(0.9f, budget)}});
        check({.shape = shape, .levels = {tokens(BudgetRule::kThreshold, 1, budget, 1e-4f)}});
    }
    SelectLevel least = top_p(0.1f);
    least.budget_min = 500;
    check({.shape = shape, .levels = {least}});
    SelectLevel share = top_k(32);
    share.budget_share = 0.25f;
    check({.shape = shape, .levels = {share}});
}

TEST_F(SelectRowsTest, WholeMassKeepsEverything) {
    for (const std::uint32_t n : {65u, 1025u, 4000u}) {
        SelectRig r = rig({.shape = {.n_tokens = n, .spread = 8}, .levels = {top_p(1)}});
        r.run();
        r.expect_right();
        for (std::uint32_t h = 0; h < 2; ++h) EXPECT_EQ(r.control(0, h).n_tokens, r.view().middle_end() - 4);
    }
}

TEST_F(SelectRowsTest, SinksAndWindowOfEverySize) {
    for (const std::uint32_t sinks : {0u, 1u, 100u, 2000u})
        for (const std::uint32_t window : {0u, 65u, 5000u, 0xffffffffu})
            check({.shape = {.n_tokens = 1111}, .levels = {top_p(0.9f)}, .sinks = sinks, .window = window});
}

TEST_F(SelectRowsTest, EqualScoresFallToLowerIds) {
    TestCache cache({.n_tokens = 1500});
    for (std::uint32_t h = 0; h < 2; ++h)
        for (std::uint32_t t = 0; t < 1500; ++t)
            std::fill_n(cache.keys.begin() + static_cast<std::ptrdiff_t>(cache.key_at(h, t)), 64, 0.5f);
    for (const std::uint32_t budget : {100u, 479u, 480u, 481u, 960u}) {  // within a range, and across its end
        SelectRig r = rig({.shape = cache.shape, .levels = {top_k(budget)}}, cache);
        r.run();
        r.expect_right();
        const std::vector<std::uint32_t> list = r.list(0, 0);
        ASSERT_EQ(list.size(), budget);
        EXPECT_EQ(list.front(), 4u);
        EXPECT_EQ(list.back(), budget + 3);
    }
    SelectRig p = rig({.shape = cache.shape, .levels = {top_p(0.9f)}}, cache);
    p.run();
    p.expect_right();  // all tie: all are kept
}

TEST_F(SelectRowsTest, ScoresFarBelowTheBestAreInTheLastBin) {
    TestCache cache({.n_tokens = 2000});
    for (std::size_t i = 0; i < 64; ++i) cache.keys[cache.key_at(0, 777) + i] = cache.query[i] > 0 ? 8.0f : -8.0f;
    SelectRig r = rig({.shape = cache.shape, .levels = {top_k(700)}}, cache);
    r.run();
    r.expect_right();
    const auto list = r.list(0, 0);
    EXPECT_TRUE(std::binary_search(list.begin(), list.end(), 777u));
}

TEST_F(SelectRowsTest, ListsServeForAWhile) {
    TestCache cache({.n_tokens = 1300});
    SelectRig r = rig({.shape = cache.shape, .levels = {blocks(16, 400), top_p(0.5f)}, .refresh = 10}, cache);
    r.run(1280);
    const auto first = r.list_words();
    std::vector<float> turned = cache.query;
    for (float& q : turned) q = -q;
    r.set_query(turned);
    r.run(1280);  // the same place again, and nine tokens later: the query does not matter
    EXPECT_EQ(r.list_words(), first);
    r.run(1289);
    EXPECT_EQ(r.list_words(), first);
    EXPECT_EQ(r.control(1, 0).n_selected_at, 1281u);
    r.run(1290);
    EXPECT_EQ(r.control(1, 0).n_selected_at, 1291u);
    EXPECT_NE(r.list_words(), first);
    r.run(1285);  // the cache was cut: a list of later tokens is not believed
    EXPECT_EQ(r.control(1, 0).n_selected_at, 1286u);
}

TEST_F(SelectRowsTest, WindowedHeadsSelectNothing) {
    TestCache cache({.n_tokens = 900});
    cache.set_window(1, 100, 4);
    SelectRig r = rig({.shape = cache.shape, .levels = {top_p(0.9f)}}, cache);
    r.run();
    r.expect_right();
    EXPECT_EQ(r.control(0, 1).n_selected_at, 0u);
}

TEST_F(SelectRowsTest, GivesTheSameBitsTwice) {
    const SelectCase c{.shape = {.n_tokens = 8000, .n_group = 4}, .levels = {top_p(0.9f)}};
    SelectRig a = rig(c), b = rig(c);
    a.run();
    b.run();
    EXPECT_EQ(a.list_words(), b.list_words());
    a.run();
    EXPECT_EQ(a.list(0, 0), b.list(0, 0));
}

TEST_F(SelectRowsTest, DoesNothingWhenStopped) {
    SelectRig r = rig({.shape = {.n_tokens = 900}, .levels = {top_p(0.9f)}});
    r.run(899, true);
    r.expect_untouched();
}

TEST_F(SelectRowsTest, WaitsAtEveryLength) {
    for (const std::uint32_t n : kLengths) {
        for (const SelectLevel& level : {top_p(0.9f), top_k(100), tokens(BudgetRule::kThreshold, 1, 0, 1e-3f)})
            check_waiting({.shape = {.n_tokens = n}, .levels = {level}, .window = 1});
    }
}

TEST_F(SelectRowsTest, WaitsInEveryGroup) {
    for (const std::uint32_t group : {1u, 4u}) {
        check_waiting({.shape = {.n_tokens = 1900, .n_group = group}, .levels = {top_p(0.8f)}});
        check_waiting({.shape = {.n_tokens = 1900, .n_group = group, .n_kv_heads = 3},
                       .levels = {top_k(300)},
                       .pool = HeadPool::kMean});
    }
    for (const std::uint32_t group_size : {64u, 192u})  // another number of subgroups, which is no power of two
        check_waiting({.shape = {.n_tokens = 6000},
                       .levels = {top_p(0.8f)},
                       .rows_tuning = {.group_size = group_size, .lanes = 1}});
}

TEST_F(SelectRowsTest, WaitsBetweenLevels) {
    for (const std::uint32_t n : {65u, 1025u, 8192u}) {
        check_waiting({.shape = {.n_tokens = n}, .levels = {blocks(16, std::max(n / 4, 1u)), top_p(0.5f)}});
        for (const SelectLevel& first : {codes(BudgetRule::kTopK, 1, n / 4), codes(BudgetRule::kTopP, 0.7f, 0)})
            check_waiting(
                {.shape = {.n_tokens = n},
                 .levels = {first, {.scorer = Scorer::kLowdim, .unit = 1, .rule = BudgetRule::kTopP, .mass = 0.5f}},
                 .index_dim = 16,
                 .rows_choose_codes = true});
    }
}

TEST_F(SelectRowsTest, WaitsForEqualScoresAndLimits) {
    TestCache cache({.n_tokens = 1500});
    for (std::uint32_t h = 0; h < 2; ++h)
        for (std::uint32_t t = 0; t < 1500; ++t)
            std::fill_n(cache.keys.begin() + static_cast<std::ptrdiff_t>(cache.key_at(h, t)), 64, 0.5f);
    for (const std::uint32_t budget :
         {1u, 100u, 479u, 480u, 481u, 960u, 100000u}) {  // within a range, and across its end
        check_waiting({.shape = cache.shape, .levels = {top_k(budget)}}, cache);
        check_waiting({.shape = cache.shape, .levels = {top_k(budget)}});
    }
    check_waiting({.shape = cache.shape, .levels = {top_p(1)}});
    for (const std::uint32_t sinks : {0u, 100u, 2000u})
        check_waiting({.shape = {.n_tokens = 1111}, .levels = {top_p(0.9f)}, .sinks = sinks, .window = 65});
    TestCache local({.n_tokens = 900});
    local.set_window(1, 100, 4);
    check_waiting({.shape = local.shape, .levels = {top_p(0.9f)}}, local);
}

TEST_F(SelectRowsTest, DoesNotWaitWhenStopped) {
    SelectRig r = rig({.shape = {.n_tokens = 900}, .levels = {top_p(0.9f)}, .rows_wait = true});
    r.run(899, true);
    r.expect_untouched();
}

TEST_F(SelectRowsTest, RefusesWhatItCannotRank) {
    SelectRows::Config c{.n_heads = 6, .n_kv_heads = 2, .level = blocks(16, 256), .score_stride = 1008};
    EXPECT_THROW(SelectRows(device(), c), Error);
    c.level = top_k(64);
    c.pool = HeadPool::kEach;
    EXPECT_THROW(SelectRows(device(), c), Error);
}

TEST_F(SelectRowsTest, TakesManyTokensOnly) {
    EXPECT_TRUE(SelectRows::takes(top_p(0.9f), HeadPool::kMax, 131072));
    EXPECT_FALSE(SelectRows::takes(top_p(0.9f), HeadPool::kMax, 8192));
    EXPECT_FALSE(SelectRows::takes(top_p(0.9f), HeadPool::kEach, 131072));
    EXPECT_FALSE(SelectRows::takes(blocks(16, 2048), HeadPool::kMax, 131072));
}

}  // namespace
}  // namespace winnow::test
