// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/select_attend.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/kv/kv_layout.h"
#include "tests/reference/select_attend.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/select_rig.h"
#include "winnow/error.h"

namespace winnow::test {
namespace {

SelectLevel level(Scorer scorer, std::uint32_t unit, BudgetRule rule, float mass, std::uint32_t budget,
                  float threshold = 0) {
    return {.scorer = scorer, .unit = unit, .rule = rule, .mass = mass, .budget = budget, .threshold = threshold};
}
SelectLevel top_p(Scorer scorer, std::uint32_t unit, float mass, std::uint32_t budget = 0) {
    return level(scorer, unit, BudgetRule::kTopP, mass, budget);
}
SelectLevel top_k(Scorer scorer, std::uint32_t unit, std::uint32_t budget) {
    return level(scorer, unit, BudgetRule::kTopK, 1, budget);
}
SelectLevel boxes(std::uint32_t unit, std::uint32_t budget) { return top_k(Scorer::kBox, unit, budget); }

class SelectAttendTest : public GpuTest {
protected:
    static void TearDownTestSuite() { stages_.clear(); }
    static SelectRig rig(SelectCase c, TestCache cache) {
        c.chooser = Chooser::kAttend;
        return {device(), stages_, c, std::move(cache)};
    }
    static SelectRig rig(const SelectCase& c) { return rig(c, TestCache(c.shape)); }

    /// What was attended, against the reference over the list that was chosen; the list itself against the oracle of
    /// selection.
    static void expect_attended(const SelectRig& r, const SelectCase& c, double skip = 0) {
        SCOPED_TRACE(c.shape.text());
        const std::size_t last = c.levels.size() - 1;
        std::vector<std::vector<std::uint32_t>> units;
        for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h) {
            units.push_back(r.list(last, h));
            if (r.cache().heads[h].window != 0) units.back().clear();
        }
        const reference::SelectView view = r.view();
        const reference::Attended ref = select_attend(view, units, c.levels[last].unit, skip);
        const SelectRig::Attention got = r.attention();
        const CacheShape& s = c.shape;  // as in attend_sparse_test
        const double n_roundings = 8 + std::sqrt(s.n_tokens / 4.0) +
                                   half_roundings(device(),
                                                  {kv_shader("select_attend", s.kv_type), s.kv_type, s.n_group,
                                                   s.head_dim, SelectStages::kAttendSplits, true, c.skip > 0},
                                                  c.tuning);
        expect_close(got.attended, ref.output, allowances(ref.terms, n_roundings), "attended");
        for (std::uint32_t head = 0; head < ref.lse.size(); ++head)
            EXPECT_NEAR(got.lse[head], ref.lse[head],
                        kRounding * (n_roundings * (1 + r.cache().score_terms(head) + std::log(c.shape.n_tokens)) +
                                     std::abs(ref.lse[head])));
        for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h) {
            if (r.cache().heads[h].window != 0) continue;
            const std::uint32_t n = view.position + 1, end = std::min(view.middle_end(), n);
            EXPECT_EQ(got.counts[h], std::min(c.sinks, end) + r.control(last, h).n_tokens + n - end);
        }
        if (c.shape.n_group * c.shape.head_dim % 32 != 0) return;
        std::vector<std::uint32_t> words = got.act;
        words.resize(got.attended.size() / 32 * 20);
        const std::vector<double> none(got.attended.size() / 32);
        expect_activations(words, to_doubles(got.attended), std::vector<double>(got.attended.size()), none, none,
                           "act");
    }
    static void check(const SelectCase& c) {
        SelectRig r = rig(c);
        r.run();
        r.expect_right();
        expect_attended(r, c);
    }

private:
    static SelectStages stages_;
};
SelectStages SelectAttendTest::stages_;

// Around the ends of blocks and of what a workgroup ranks at once (256 rows on lavapipe).
constexpr std::uint32_t kLengths[] = {1, 63, 64, 65, 69, 129, 1023, 1024, 1025, 4161, 8192};

TEST_F(SelectAttendTest, ChoosesAndAttendsAtEveryLength) {
    for (const std::uint32_t n : kLengths) {
        const CacheShape shape{.n_tokens = n};
        check({.shape = shape, .levels = {boxes(16, 200)}, .window = 1});
        check({.shape = shape, .levels = {top_p(Scorer::kExact, 1, 0.9f)}, .window = 1});
        check({.shape = shape, .levels = {level(Scorer::kMean, 32, BudgetRule::kThreshold, 1, 0, 1e-3f)}});
    }
}

TEST_F(SelectAttendTest, EveryScorerAndCacheType) {
    for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8_0, KvType::kQ4_0}) {
        const CacheShape shape{.n_tokens = 1900, .kv_type = type};
        check({.shape = shape, .levels = {boxes(16, 400)}});
        check({.shape = shape, .levels = {top_p(Scorer::kExact, 1, 0.8f)}});
    }
    check({.shape = {.n_tokens = 1900}, .levels = {top_p(Scorer::kLowdim, 1, 0.8f)}, .index_dim = 16});
    check({.shape = {.n_tokens = 1900}, .levels = {top_k(Scorer::kLowdimMean, 64, 500)}, .index_dim = 16});
}

TEST_F(SelectAttendTest, EveryHeadShape) {
    for (const CacheShape& shape :
         {CacheShape{1100, 64, 1}, {1100, 64, 4}, {1100, 64, 7}, {1100, 80, 3}, {1100, 128, 2}, {1100, 256, 1}}) {
        if (shape.n_group % 2 == 0) check({.shape = shape, .levels = {boxes(16, 300)}});  // compiling takes long
        else check({.shape = shape, .levels = {top_p(Scorer::kMean, 16, 0.7f)}, .pool = HeadPool::kMean});
    }
}

// As a GPU has it: more subgroups, whose number is no power of two.
TEST_F(SelectAttendTest, WideGroups) {
    for (const std::uint32_t n : {700u, 7000u})
        check({.shape = {n, 64, 4},
               .levels = {boxes(16, 600)},
               .tuning = {3 * std::max(device().limits().subgroup_size, 32u), 8, 4}});
}

TEST_F(SelectAttendTest, ChildrenOfBlocks) {
    for (const std::uint32_t n : {64u, 1025u, 3500u, 8192u}) {
        const CacheShape shape{.n_tokens = n};
        const std::uint32_t quarter = std::max(n / 4, 1u);
        for (const std::uint32_t sinks : {4u, 100u}) {  // sinks that fill the first children whole and part of one
            check({.shape = shape, .levels = {boxes(64, quarter), top_p(Scorer::kExact, 1, 0.5f)}, .sinks = sinks});
            check({.shape = shape, .levels = {boxes(1024, 2 * quarter), boxes(16, quarter)}, .sinks = sinks});
        }
    }
}

// Of single tokens, which have no order but that of the list: index keys decide among what their codes let through
// (hisa), whoever made that list. SelectRows makes those of many tokens: of few, one bin's rows are a share that
// counts.
TEST_F(SelectAttendTest, ChildrenOfCodes) {
    for (const std::uint32_t n : {64u, 65u, 129u, 1025u, 3500u, 8192u}) {
        const CacheShape shape{.n_tokens = n};
        const SelectLevel codes = top_k(Scorer::kCodes, 1, std::max(n / 3, 1u));
        for (const bool rows_choose : {false, true}) {
            if (rows_choose && n < 1000) continue;
            for (const std::uint32_t sinks : {4u, 100u})
                check({.shape = shape,
                       .levels = {codes, top_k(Scorer::kLowdim, 1, std::max(n / 7, 1u))},
                       .sinks = sinks,
                       .index_dim = 16,
                       .rows_choose_codes = rows_choose});
            check({.shape = shape,
                   .levels = {codes, top_p(Scorer::kLowdim, 1, 0.6f)},
                   .window = 1,
                   .index_dim = 16,
                   .rows_choose_codes = rows_choose});
        }
    }
    for (const std::uint32_t sinks : {0u, 20u})  // that one tile holds
        check({.shape = {.n_tokens = 100},
               .levels = {top_k(Scorer::kCodes, 1, 30), top_k(Scorer::kLowdim, 1, 10)},
               .sinks = sinks,
               .window = 16,
               .index_dim = 16,
               .max_rows = 112});
    check({.shape = {1900, 128, 4},
           .levels = {top_k(Scorer::kCodes, 1, 700), top_k(Scorer::kLowdim, 1, 300)},
           .pool = HeadPool::kMean,
           .index_dim = 24,
           .index_type = IndexType::kInt8});
}

TEST_F(SelectAttendTest, LimitsOfTheBudget) {
    const CacheShape shape{.n_tokens = 1500};
    for (const std::uint32_t budget : {1u, 15u, 16u, 17u, 1000u, 100000u}) {
        check({.shape = shape, .levels = {boxes(16, budget)}});
        check({.shape = shape, .levels = {top_p(Scorer::kMean, 16, 0.9f, budget)}});
    }
    SelectLevel least = top_p(Scorer::kExact, 1, 0.1f);
    least.budget_min = 500;
    check({.shape = shape, .levels = {least}});
    SelectLevel share = boxes(16, 32);
    share.budget_share = 0.25f;
    check({.shape = shape, .levels = {share}});
}

// So few rows that a workgroup holds all of them at once: the shader then has no loop over tiles and knows the list's
// length first.
TEST_F(SelectAttendTest, RowsOfOneTile) {
    for (const std::uint32_t n : {100u, 1500u, 1792u})
        for (const std::uint32_t sinks : {0u, 4u, 20u, 100u})
            for (const std::uint32_t budget : {1u, 16u, 17u, 300u, 100000u})
                check({.shape = {.n_tokens = n}, .levels = {boxes(16, budget)}, .sinks = sinks, .max_rows = 112});
    check({.shape = {.n_tokens = 1500}, .levels = {top_p(Scorer::kMean, 16, 0.6f)}, .max_rows = 112});
    for (const std::uint32_t sinks : {4u, 100u})
        check({.shape = {.n_tokens = 1500},
               .levels = {boxes(1024, 2048), boxes(16, 200)},
               .sinks = sinks,
               .max_rows = 128});
}

TEST_F(SelectAttendTest, SinksAndWindowOfEverySize) {
    for (const std::uint32_t sinks : {0u, 1u, 20u, 100u, 2000u})
        for (const std::uint32_t window : {0u, 65u, 5000u, 0xffffffffu})
            check({.shape = {.n_tokens = 1111}, .levels = {boxes(16, 200)}, .sinks = sinks, .window = window});
}

TEST_F(SelectAttendTest, WholeMassEqualsDense) {
    for (const std::uint32_t n : {65u, 1025u, 4000u}) {
        const SelectCase c{.shape = {.n_tokens = n}, .levels = {top_p(Scorer::kMean, 16, 1)}};
        SelectRig r = rig(c);
        r.run();
        r.expect_right();
        const reference::Attended ref = reference::attend_dense(r.cache().query, r.cache().view(), n - 1);
        const SelectRig::Attention got = r.attention();
        expect_close(got.attended, ref.output, allowances(ref.terms, 8 + std::sqrt(n / 4.0)), "attended");
        for (const std::uint32_t count : got.counts) EXPECT_EQ(count, n);
    }
}

TEST_F(SelectAttendTest, EqualScoresFallToLowerIds) {
    TestCache cache({.n_tokens = 6000});
    for (std::uint32_t h = 0; h < 2; ++h)
        for (std::uint32_t t = 0; t < 6000; ++t)
            std::fill_n(cache.keys.begin() + static_cast<std::ptrdiff_t>(cache.key_at(h, t)), 64, 0.5f);
    for (const std::uint32_t budget :
         {16u, 100u, 4080u, 4096u, 4112u}) {  // within what is ranked at once, and across its end
        for (const std::uint32_t sinks : {0u, 4u}) {
            const SelectCase c{.shape = cache.shape, .levels = {boxes(16, budget)}, .sinks = sinks};
            SelectRig r = rig(c, cache);
            r.run();
            r.expect_right();
            expect_attended(r, c);
            const std::vector<std::uint32_t> list = r.list(0, 0);
            ASSERT_EQ(list.size(), (budget + (sinks != 0 ? sinks : 0) + 15) / 16);  // the first block lacks its sinks
            for (std::uint32_t i = 0; i < list.size(); ++i) EXPECT_EQ(list[i], i);
        }
    }
}

TEST_F(SelectAttendTest, WindowedHeadsSeeWhatTheyAlwaysSee) {
    TestCache cache({.n_tokens = 900});
    cache.set_window(1, 100, 4);
    const SelectCase c{.shape = cache.shape, .levels = {boxes(32, 300)}};
    SelectRig r = rig(c, cache);
    r.run();
    r.expect_right();
    expect_attended(r, c);
    EXPECT_EQ(r.control(0, 1).n_selected_at, 0u);
}

TEST_F(SelectAttendTest, SkipsTokensThatNoHeadNeeds) {
    for (const std::uint32_t n : {1500u, 4000u}) {
        // Everything is attended, and each lane group of a GPU has several tokens: wherever it starts, it meets a
        // strong one at once.
        TestCache cache({.n_tokens = n});
        grade(cache);
        const SelectCase c{.shape = cache.shape, .levels = {boxes(16, 100000)}, .skip = 0.03f * static_cast<float>(n)};
        SelectRig r = rig(c, cache);
        r.run();
        expect_attended(r, c, 0.03);
        const reference::Attended all = reference::attend_dense(cache.query, cache.view(), n - 1);
        EXPECT_LT(double{r.attention().lse[0]}, all.lse[0] - 1e-4);
    }
}

TEST_F(SelectAttendTest, NoShareSkipsNothing) {
    const SelectCase c{
        .shape = {.n_tokens = 1500}, .levels = {boxes(16, 700)}, .skip = 1e-30f};  // no weight is that small
    SelectRig r = rig(c);
    r.run();
    expect_attended(r, c);
}

TEST_F(SelectAttendTest, GivesTheSameBitsTwice) {
    const SelectCase c{.shape = {.n_tokens = 8000, .n_group = 4}, .levels = {boxes(16, 1500)}};
    SelectRig a = rig(c), b = rig(c);
    a.run();
    b.run();
    EXPECT_EQ(a.list_words(), b.list_words());
    EXPECT_TRUE(a.attention() == b.attention());
    a.run();
    EXPECT_TRUE(a.attention() == b.attention());
}

TEST_F(SelectAttendTest, DoesNothingWhenStopped) {
    SelectRig r = rig({.shape = {.n_tokens = 900}, .levels = {boxes(16, 300)}});
    r.run(899, true);
    r.expect_untouched();
}

// The stage scores boxes itself. So few rows that each workgroup scores all of them, by what the stage is made for and
// by what there is; and shares of workgroups that wait for each other, for ever or not at all.
SelectCase scored(SelectCase c, std::uint32_t own_rows, std::uint32_t patience) {
    c.scores_rows = true;
    c.own_rows = own_rows;
    c.patience = patience;
    return c;
}

TEST_F(SelectAttendTest, ScoresBoxesAtEveryLength) {
    for (const std::uint32_t n : kLengths) {
        for (const std::uint32_t own_rows : {16u, 256u}) {
            check(scored({.shape = {.n_tokens = n}, .levels = {boxes(16, 200)}, .window = 1}, own_rows, 0));
            check(scored({.shape = {.n_tokens = n}, .levels = {boxes(64, 300)}}, own_rows, 0));
        }
    }
    for (const std::uint32_t n : {100u, 1500u, 1792u})
        check(scored({.shape = {.n_tokens = n}, .levels = {boxes(16, 300)}, .max_rows = 112}, 256, 0));
}

TEST_F(SelectAttendTest, ScoresBoxesOfEveryCacheAndRule) {
    for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8_0, KvType::kQ4_0}) {
        const CacheShape shape{.n_tokens = 1900, .kv_type = type};
        check(scored({.shape = shape, .levels = {boxes(16, 400)}}, 32, 0));
    }
    for (const std::uint32_t own_rows : {32u, 256u})
        check(scored({.shape = {.n_tokens = 1900}, .levels = {top_p(Scorer::kBox, 16, 0.8f)}}, own_rows, 0));
    check(scored({.shape = {.n_tokens = 1900},
                  .levels = {level(Scorer::kBox, 32, BudgetRule::kThreshold, 1, 0, 1e-3f)},
                  .pool = HeadPool::kMean},
                 16, 0));
}

TEST_F(SelectAttendTest, ScoresBoxesOfEveryHeadShape) {
    for (const CacheShape& shape :
         {CacheShape{1100, 64, 1}, {1100, 64, 4}, {1100, 80, 3}, {1100, 128, 2}, {1100, 256, 1}})
        check(scored({.shape = shape, .levels = {boxes(16, 300)}}, 32, 0));  // compiling takes long
}

TEST_F(SelectAttendTest, ScoresBoxesBesideAnySinksAndWindow) {
    TestCache cache({.n_tokens = 900});
    cache.set_window(1, 100, 4);
    for (const std::uint32_t own_rows : {16u, 256u}) {
        const SelectCase ring = scored({.shape = cache.shape, .levels = {boxes(32, 300)}}, own_rows, 0);
        SelectRig r = rig(ring, cache);
        r.run();
        r.expect_right();
        expect_attended(r, ring);
        for (const std::uint32_t sinks : {0u, 20u, 100u, 2000u})
            for (const std::uint32_t window : {0u, 65u, 5000u})
                check(
                    scored({.shape = {.n_tokens = 1111}, .levels = {boxes(16, 200)}, .sinks = sinks, .window = window},
                           own_rows, 0));
        SelectRig stopped = rig(scored({.shape = {.n_tokens = 900}, .levels = {boxes(16, 300)}}, own_rows, 0));
        stopped.run(899, true);
        stopped.expect_untouched();
    }
}

// Whoever scores, and whether the others are waited for, the bits are the same.
TEST_F(SelectAttendTest, PatienceChangesNothing) {
    const SelectCase c{.shape = {.n_tokens = 8000, .n_group = 4}, .levels = {boxes(16, 1500)}};
    SelectRig none = rig(scored(c, 16, 0)), some = rig(scored(c, 16, 1)), much = rig(scored(c, 16, 1000));
    for (SelectRig* r : {&none, &some, &much}) {
        r->run();
        r->expect_right();
    }
    EXPECT_EQ(none.list_words(), some.list_words());
    EXPECT_EQ(none.list_words(), much.list_words());
    EXPECT_TRUE(none.attention() == some.attention());
    EXPECT_TRUE(none.attention() == much.attention());
    const SelectRig::Attention first = much.attention();
    much.run();  // the counters are as they were
    EXPECT_TRUE(much.attention() == first);
}

// The stage scores index keys of what a level above kept itself: a third of the tokens by their codes, a seventh in the
// end.
SelectCase scored_keys(CacheShape shape, const SelectLevel& last, std::uint32_t own_rows, std::uint32_t patience = 0) {
    return scored(
        {.shape = shape, .levels = {top_k(Scorer::kCodes, 1, std::max(shape.n_tokens / 3, 1u)), last}, .index_dim = 16},
        own_rows, patience);
}

TEST_F(SelectAttendTest, ScoresKeysAtEveryLength) {
    for (const std::uint32_t n : kLengths) {
        for (const std::uint32_t own_rows : {16u, 256u}) {
            SelectCase c = scored_keys({.n_tokens = n}, top_k(Scorer::kLowdim, 1, std::max(n / 7, 1u)), own_rows);
            for (const std::uint32_t sinks : {4u, 100u}) {
                c.sinks = sinks;
                check(c);
            }
            c.window = 1;
            c.rows_choose_codes = n > 1000;  // of few tokens one bin's rows are a share that counts
            c.levels.back() = top_p(Scorer::kLowdim, 1, 0.6f);
            check(c);
        }
    }
}

TEST_F(SelectAttendTest, ScoresKeysOfEveryCacheAndShape) {
    for (const KvType type : {KvType::kF32, KvType::kQ8_0}) {
        SelectCase c = scored_keys({.n_tokens = 1900, .kv_type = type}, top_k(Scorer::kLowdim, 1, 300), 32);
        c.index_type = IndexType::kInt8;
        check(c);
    }
    for (const CacheShape& shape : {CacheShape{1900, 64, 1}, {1900, 80, 3}, {1900, 128, 2}}) {
        SelectCase c = scored_keys(shape, top_k(Scorer::kLowdim, 1, 300), 32);
        c.pool = HeadPool::kMean;
        c.index_dim = 24;
        check(c);
    }
    // Below blocks, whose children may lie beyond the cache.
    for (const std::uint32_t n : {129u, 1025u, 3500u})
        for (const std::uint32_t own_rows : {16u, 256u})
            check(scored({.shape = {.n_tokens = n},
                          .levels = {top_k(Scorer::kLowdimMean, 64, n / 2), top_p(Scorer::kLowdim, 1, 0.5f)},
                          .sinks = 100,
                          .index_dim = 16},
                         own_rows, 0));
}

TEST_F(SelectAttendTest, ScoresKeysBesideWindowedHeads) {
    TestCache cache({.n_tokens = 900});
    cache.set_window(1, 100, 4);
    for (const std::uint32_t own_rows : {16u, 256u}) {
        const SelectCase c = scored_keys(cache.shape, top_k(Scorer::kLowdim, 1, 100), own_rows);
        SelectRig r = rig(c, cache);
        r.run();
        expect_attended(r, c);
        EXPECT_EQ(r.control(1, 0).n_list, 100u);
        EXPECT_EQ(r.control(1, 1).n_selected_at, 0u);
        SelectRig stopped = rig(c, cache);
        stopped.run(899, true);
        stopped.expect_untouched();
    }
}

TEST_F(SelectAttendTest, PatienceChangesNothingForKeys) {
    for (const SelectLevel& last : {top_k(Scorer::kLowdim, 1, 700), top_p(Scorer::kLowdim, 1, 0.6f)}) {
        std::vector<SelectRig> rigs;
        for (const std::uint32_t patience : {0u, 30000u}) {
            rigs.push_back(rig(scored_keys({.n_tokens = 8000}, last, 16, patience)));
            for (int turn = 0; turn < 2; ++turn) rigs.back().run();  // the counters are as they were
            rigs.back().expect_right();
            EXPECT_EQ(rigs.back().list_words(), rigs.front().list_words());
            EXPECT_TRUE(rigs.back().attention() == rigs.front().attention());
        }
    }
}

TEST_F(SelectAttendTest, RefusesWhatItCannotRank) {
    SelectAttend::Config c{.n_heads = 6,
                           .n_kv_heads = 2,
                           .head_dim = 64,
                           .n_splits = 8,
                           .level = boxes(16, 256),
                           .most_rows = 8192,
                           .score_stride = 8192};
    EXPECT_NE(SelectAttend::make(device(), c), nullptr);
    c.most_rows = 16384;
    EXPECT_EQ(SelectAttend::make(device(), c), nullptr);
    EXPECT_THROW(SelectAttend(device(), c), Error);
    c.most_rows = 8192;
    c.level.unit = 1024;
    EXPECT_THROW(SelectAttend(device(), c), Error);
    c.level.unit = 16;
    c.pool = HeadPool::kEach;
    EXPECT_THROW(SelectAttend(device(), c), Error);
    c.pool = HeadPool::kMax;
    c.scores_rows = true;
    EXPECT_NE(SelectAttend::make(device(), c), nullptr);
    c.parent_unit = 1024;
    EXPECT_EQ(SelectAttend::make(device(), c), nullptr);
    c.level = top_k(Scorer::kLowdim, 16, 256);
    EXPECT_EQ(SelectAttend::make(device(), c), nullptr);
    c.level.unit = 1;
    EXPECT_NE(SelectAttend::make(device(), c), nullptr);
    c.parent_unit = 0;
    EXPECT_EQ(SelectAttend::make(device(), c), nullptr);
    c.level.scorer = Scorer::kMean;
    EXPECT_EQ(SelectAttend::make(device(), c), nullptr);
    c.scores_rows = false;
    c.most_rows = 131072;
    EXPECT_THROW(SelectAttend(device(), c), Error);
}

}  // namespace
}  // namespace winnow::test
