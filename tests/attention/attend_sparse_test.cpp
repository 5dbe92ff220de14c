// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_sparse.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/kv/kv_layout.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/timeline.h"
#include "tests/reference/attend_sparse.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kFirstCounter = 3, kListOffset = 5, kFirstControl = 2, kFirstMap = 4, kFirstCount = 3;

struct SparseCase {
    CacheShape shape;
    std::uint32_t n_splits = 3, sinks = 4, window = 64;
    double share = 0.3;  ///< of the units between sinks and window that are listed
    bool window_only = false;
    float skip = 0;
    std::uint32_t unit = 1;  ///< tokens of a list entry
    AttendTuning tuning{};   ///< empty = the table's

    std::string text() const {
        return fmt::format("{} splits {} sinks {} window {}{} share {} skip {} unit {}", shape.text(), n_splits, sinks,
                           window, window_only ? " only" : "", share, skip, unit);
    }
    std::uint32_t middle_end() const {
        const std::uint32_t beyond = shape.n_tokens > window ? shape.n_tokens - window : 0;
        return std::min(beyond, shape.position()) / kBlock * kBlock;
    }
    AttendSparse::Config config() const {
        return {shape.n_heads(), shape.n_kv_heads, shape.head_dim, shape.kv_type, kBlock,
                n_splits,        quantize(),       unit,           skip > 0,      false,
                tuning};
    }
    bool quantize() const { return shape.n_group * shape.head_dim % 32 == 0; }
};

struct Outputs {
    std::vector<float> attended, lse;
    std::vector<std::uint32_t> act, counters, counts;
    bool operator==(const Outputs&) const = default;
};

/// The stage with a cache and a list for each kv head, which another kv head made: the head map turns them round.
struct Rig {
    Rig(vk::Device& dev, const SparseCase& sparse_case, TestCache test_cache)
        : device(dev), c(sparse_case), cache(std::move(test_cache)) {
        ReplicableRng rng(c.shape.n_tokens);
        for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h) {
            std::vector<std::uint32_t>& list = lists.emplace_back();
            std::vector<std::uint32_t>& chosen = units.emplace_back();
            for (std::uint32_t u = c.sinks / c.unit; u * c.unit < c.middle_end(); ++u) {
                if (rng.uniform() >= c.share) continue;
                chosen.push_back(u);
                for (std::uint32_t t = std::max(u * c.unit, c.sinks); t < std::min((u + 1) * c.unit, c.middle_end());
                     ++t)
                    list.push_back(t);
            }
        }
    }
    std::uint32_t list_head(std::uint32_t kv_head) const { return c.shape.n_kv_heads - 1 - kv_head; }
    Outputs run(const AttendSparse& stage, bool stopped = false) const {
        const CacheShape& s = c.shape;
        const std::uint32_t stride = s.n_tokens + 3;
        std::vector<std::uint32_t> list_words(kListOffset + stride * s.n_kv_heads, ~0u), head_map(kFirstMap, ~0u);
        std::vector<SelectControl> controls(kFirstControl + s.n_kv_heads);
        for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) {
            std::copy(units[h].begin(), units[h].end(), list_words.begin() + kListOffset + h * stride);
            controls[kFirstControl + h] = {static_cast<std::uint32_t>(units[h].size()),
                                           static_cast<std::uint32_t>(lists[h].size()), c.middle_end(), s.n_tokens};
            head_map.push_back(list_head(h));
        }
        const auto buffer = [&](const auto& values) { return make_buffer(device, std::span(values)); };
        const std::vector<std::uint32_t> zeros(kFirstCounter + s.n_kv_heads + 2);
        const vk::Buffer state = make_sparse_state(device, s.position(), stopped), tables = buffer(cache.table()),
                         keys = cache.upload(device, cache.keys), values = cache.upload(device, cache.values),
                         query = buffer(cache.query), list_buffer = buffer(list_words),
                         control_buffer = buffer(controls), map_buffer = buffer(head_map);
        const GuardedBuffer counters(device, "counters", std::as_bytes(std::span(zeros)));
        const GuardedBuffer partials(device, "partials",
                                     attend_partial_bytes(s.n_heads(), s.n_kv_heads, s.head_dim, c.n_splits));
        const GuardedBuffer attended(device, "attended", cache.query.size() * 4), lse(device, "lse", s.n_heads() * 4);
        const GuardedBuffer act(device, "act", (cache.query.size() / 32 + 1) * 80);
        const GuardedBuffer counts(device, "counts", (kFirstCount + s.n_kv_heads) * 4);
        vk::run_once(device, [&](vk::Recorder& recorder) {
            stage.record(
                recorder,
                {state, tables, keys, values, query, partials.range(), counters.range(), attended.range(), act.range(),
                 list_buffer, control_buffer, map_buffer, lse.range(), counts.range()},
                {TestCache::table_offset, cache.table_stride, kListOffset, stride, kFirstControl, kFirstCount, 0,
                 kFirstMap, kFirstCounter, c.sinks, c.window, c.window_only ? 1u : 0u, c.skip, WINNOW_NO_SUMS});
        });
        partials.bytes();  // looks at its canaries
        return {attended.contents<float>(), lse.contents<float>(), act.contents<std::uint32_t>(),
                counters.contents<std::uint32_t>(), counts.contents<std::uint32_t>()};
    }

    std::vector<std::vector<std::uint32_t>> tokens() const {
        std::vector<std::vector<std::uint32_t>> result;
        for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h)
            result.push_back(attended_tokens(cache.heads[h],
                                             {c.sinks, c.window, c.window_only, lists[list_head(h)], c.middle_end()},
                                             c.shape.position()));
        return result;
    }
    // As in attend_dense_test: roundings of a sum over n tokens, whose terms carry their condition.
    double n_roundings() const {
        const CacheShape& s = c.shape;
        return 8 + std::sqrt(s.n_tokens / 4.0) +
               half_roundings(device,
                              {kv_shader("attend_sparse", s.kv_type), s.kv_type, s.n_group, s.head_dim, c.n_splits,
                               true, c.skip > 0},
                              c.tuning);
    }
    // A score errs by its terms, exp(x) by |x|, of which the weighted mean is at most log n.
    std::vector<double> lse_allowance(const std::vector<double>& lse) const {
        std::vector<double> result;
        for (std::uint32_t head = 0; head < lse.size(); ++head)
            result.push_back(kRounding * (n_roundings() * (1 + cache.score_terms(head) + std::log(c.shape.n_tokens)) +
                                          std::abs(lse[head])));
        return result;
    }
    /// @param skip share of the maximum below which the reference skips a token.
    reference::Attended expected(double skip = 0) const {
        return reference::attend_sparse(cache.query, cache.view(), tokens(), skip);
    }
    void expect_right(const Outputs& out, const reference::Attended& ref) const {
        SCOPED_TRACE(c.text());
        expect_close(out.attended, ref.output, allowances(ref.terms, n_roundings()), "attended");
        expect_close(out.lse, ref.lse, lse_allowance(ref.lse), "lse");
        expect_rest(out);
    }
    void expect_rest(const Outputs& out) const {  // counts, counters, the quantised form of the f32 output itself
        const auto attended = tokens();
        for (const std::uint32_t counter : out.counters) EXPECT_EQ(counter, 0u);
        for (std::size_t i = 0; i < out.counts.size(); ++i)
            EXPECT_EQ(out.counts[i], i < kFirstCount ? ~0u : attended[i - kFirstCount].size()) << "count " << i;
        std::vector<std::uint32_t> words = out.act;
        const std::size_t nb = c.quantize() ? out.attended.size() / 32 : 0;
        for (std::size_t i = nb * 20; i < words.size(); ++i) ASSERT_EQ(words[i], ~0u) << "word " << i;
        words.resize(nb * 20);
        const std::vector<double> none(nb);
        if (nb != 0)
            expect_activations(words, to_doubles(out.attended), std::vector<double>(out.attended.size()), none, none,
                               "act");
    }

    vk::Device& device;
    SparseCase c;
    TestCache cache;
    std::vector<std::vector<std::uint32_t>> units, lists;  ///< entries of each list, and the tokens that they stand for
};

class AttendSparseTest : public GpuTest {
protected:
    static void TearDownTestSuite() { stages_.clear(); }
    static const AttendSparse& stage(const SparseCase& c) {
        const CacheShape& s = c.shape;
        std::unique_ptr<AttendSparse>& result =
            stages_[fmt::format("{} {} {} {} {} {} {}", s.head_dim, s.n_group, s.n_kv_heads,
                                static_cast<int>(s.kv_type), c.n_splits, c.unit, c.skip > 0)];
        if (!result) result = std::make_unique<AttendSparse>(device(), c.config());
        return *result;
    }
    static Rig rig(const SparseCase& c) { return {device(), c, TestCache(c.shape)}; }
    static void check(const Rig& r) { r.expect_right(r.run(stage(r.c)), r.expected()); }
    static void check(const SparseCase& c) { check(rig(c)); }

private:
    static std::map<std::string, std::unique_ptr<AttendSparse>> stages_;
};
std::map<std::string, std::unique_ptr<AttendSparse>> AttendSparseTest::stages_;

constexpr std::uint32_t kLengths[] = {1, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 4103};

TEST_F(AttendSparseTest, EveryLength) {
    for (const auto& [type, n_splits] : {std::pair{KvType::kF16, 3u}, {KvType::kF16, 16u}, {KvType::kF32, 1u}})
        for (const std::uint32_t n : kLengths)
            check({.shape = {.n_tokens = n, .kv_type = type}, .n_splits = n_splits, .window = 1});
}

TEST_F(AttendSparseTest, EveryHeadShape) {  // each width and each group: compiling takes long (attend_dense_test)
    for (const CacheShape& shape : {CacheShape{499, 64, 1, KvType::kF32},
                                    {499, 64, 4, KvType::kF32},
                                    {499, 64, 7, KvType::kF16},
                                    {499, 80, 2, KvType::kF16},
                                    {499, 128, 1, KvType::kF32},
                                    {499, 256, 1, KvType::kF16},
                                    {499, 64, 3, KvType::kQ8_0},
                                    {499, 80, 1, KvType::kQ4_0},
                                    {499, 128, 1, KvType::kQ8_0},
                                    {499, 64, 1, KvType::kQ4_0}})
        check({.shape = shape});
}

TEST_F(AttendSparseTest, SinksWindowAndListsOfEverySize) {
    for (const std::uint32_t sinks : {0u, 1u, 64u, 100u, 3000u})
        for (const std::uint32_t window : {0u, 1u, 65u, 700u, 0xffffffffu})
            for (const double share : {0.0, 0.02, 1.0})
                check({.shape = {.n_tokens = 1111}, .sinks = sinks, .window = window, .share = share});
}

TEST_F(AttendSparseTest, UnitsThatSinksAndWindowCut) {
    for (const std::uint32_t unit : {16u, 64u, 1024u})
        for (const std::uint32_t sinks : {0u, 4u, 100u, 1500u})
            for (const std::uint32_t window : {1u, 65u, 700u})
                check({.shape = {.n_tokens = 2111},
                       .sinks = sinks,
                       .window = window,
                       .share = unit == 1024 ? 1 : 0.3,
                       .unit = unit});
}

TEST_F(AttendSparseTest, WindowOnly) {
    for (const std::uint32_t n : kLengths)
        for (const std::uint32_t window : {0u, 1u, 64u, 300u, 0xffffffffu})
            check({.shape = {.n_tokens = n}, .sinks = 20, .window = window, .share = 1, .window_only = true});
}

TEST_F(AttendSparseTest, WholeListEqualsDense) {
    for (const auto& [type, n_splits] : {std::pair{KvType::kF16, 3u}, {KvType::kF32, 1u}}) {
        for (const std::uint32_t n : kLengths) {
            const Rig r = rig({.shape = {.n_tokens = n, .kv_type = type},
                               .n_splits = n_splits,
                               .window = n % 2 == 0 ? 64u : 1u,
                               .share = 1});
            const Outputs out = r.run(stage(r.c));
            r.expect_right(out, reference::attend_dense(r.cache.query, r.cache.view(), n - 1));
            EXPECT_EQ(out.counts.back(), n);
        }
    }
}

TEST_F(AttendSparseTest, WindowedHeadsSeeWhatTheyAlwaysSee) {
    for (const std::uint32_t window : {1u, 64u, 100u, 2000u}) {
        for (const bool ring : {false, true}) {
            const SparseCase c{.shape = {.n_tokens = 1100}, .window_only = ring};
            TestCache cache(c.shape);
            cache.set_window(1, window, 70);
            if (ring &&
                window < 1000) {  // blocks after the sinks take turns; what no longer stands anywhere is not seen
                cache.heads[1].sink_blocks = 2;
                cache.heads[1].ring_blocks = (window + kBlock - 2) / kBlock + 1;
            }
            check({device(), c, cache});
        }
    }
}

TEST_F(AttendSparseTest, ExtremeScores) {
    const SparseCase c{.shape = {.n_tokens = 1021}, .share = 0.5};
    for (const float amplitude : {0.0f, 1.0f, 2000.0f}) {  // all equal; concentrated; one token takes everything
        TestCache cache(c.shape);
        for (float& q : cache.query) q *= amplitude;
        check({device(), c, cache});
    }
}

TEST_F(AttendSparseTest, SkipsTokensThatNoHeadNeeds) {
    for (const auto& [type, n_splits] : {std::pair{KvType::kF16, 3u}, {KvType::kF32, 1u}}) {
        for (const std::uint32_t n : {512u, 1500u}) {
            // Everything is attended, so that wherever a lane group starts, it meets a strong token at once.
            Rig r = rig({.shape = {.n_tokens = n, .kv_type = type},
                         .n_splits = n_splits,
                         .share = 1,
                         .skip = 0.03f * static_cast<float>(n)});
            grade(r.cache);
            const Outputs out = r.run(stage(r.c));
            r.expect_right(out, r.expected(0.03));
            EXPECT_LT(double{out.lse[0]}, r.expected().lse[0] - 1e-4);
        }
    }
}

TEST_F(AttendSparseTest, NoShareSkipsNothing) {
    SparseCase c{.shape = {.n_tokens = 1500}};
    // Both by lanes: matrix units skip nothing.
    c.tuning = attend_tuning(device(), c.shape.n_group, c.shape.head_dim, c.n_splits);
    const Outputs none = rig(c).run(AttendSparse(device(), c.config()));
    c.skip = 1e-30f;  // no weight is that small
    EXPECT_TRUE(rig(c).run(AttendSparse(device(), c.config())) == none);
}

// A lane group compares with the largest score that it has met so far, so it may keep what the reference skips, never
// the reverse: nothing but a part of the skipped mass may be missing.
TEST_F(AttendSparseTest, SkipsNoMoreThanItsShare) {
    for (const std::uint32_t n : kLengths) {
        for (const float skip : {0.1f, 1.0f, 16.5f, 1e6f}) {
            const Rig r = rig({.shape = {.n_tokens = n, .spread = 3}, .share = 0.7, .skip = skip});
            const Outputs out = r.run(stage(r.c));
            SCOPED_TRACE(r.c.text());
            r.expect_rest(out);
            const auto attended = r.tokens();
            const double n_least = static_cast<double>(std::min(attended[0].size(), attended[1].size()));
            const reference::Attended all = r.expected(),
                                      least = r.expected(std::min(double{skip} / n_least * (1 + 1e-4), 1.0));
            std::vector<double> allowance = allowances(all.terms, r.n_roundings());
            const std::vector<double> lse = r.lse_allowance(all.lse);
            for (std::size_t head = 0; head < lse.size(); ++head) {
                const double missing = 1 - std::exp(least.lse[head] - all.lse[head]);
                EXPECT_LE(double{out.lse[head]}, all.lse[head] + lse[head]) << "head " << head;
                EXPECT_GE(double{out.lse[head]}, least.lse[head] - lse[head]) << "head " << head;
                // The rest's mean differs from everything's by missing / (1 - missing) of what it missed: values
                // below 2.
                for (std::size_t i = head * 64; i < (head + 1) * 64; ++i)
                    allowance[i] = (allowance[i] + missing * (2 + std::abs(all.output[i]))) / (1 - missing);
            }
            expect_close(out.attended, all.output, allowance, "attended");
        }
    }
}

TEST_F(AttendSparseTest, GivesTheSameBitsTwice) {
    for (const std::uint32_t n_splits : {3u, 16u}) {
        const Rig r = rig({.shape = {.n_tokens = 4103}, .n_splits = n_splits, .skip = 2});
        EXPECT_TRUE(r.run(stage(r.c)) == r.run(stage(r.c)));
    }
}

TEST_F(AttendSparseTest, DoesNothingWhenStopped) {
    const Rig r = rig({.shape = {.n_tokens = 500}});
    const Outputs out = r.run(stage(r.c), true);
    for (const float x : out.attended) ASSERT_TRUE(std::isnan(x));
    for (const float x : out.lse) ASSERT_TRUE(std::isnan(x));
    for (const auto* words : {&out.act, &out.counts})
        EXPECT_EQ(std::count(words->begin(), words->end(), ~0u), std::ssize(*words));
    for (const std::uint32_t counter : out.counters) EXPECT_EQ(counter, 0u);
}

}  // namespace
}  // namespace winnow::test
