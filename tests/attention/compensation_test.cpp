// SPDX-License-Identifier: Apache-2.0
// Attention with the compensation token, in each of the stages that know it: what left a window counts as one token of
// the mean key and value with the number of those as its weight. The same as if each of them had the mean key and
// value, which is what the reference attends to.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "runtime/attention/attend_dense.h"
#include "runtime/attention/attend_sparse.h"
#include "runtime/attention/indexer_score.h"
#include "runtime/attention/select_attend.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/timeline.h"
#include "tests/reference/attend_dense.h"
#include "tests/reference/sum_evicted.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kSplits = 3, kFirstRow = 2;

struct WindowCase {
    CacheShape shape;
    std::uint32_t window = 100, sinks = 4;
    std::string text() const { return fmt::format("{} window {} sinks {}", shape.text(), window, sinks); }
};

TestCache windowed(const WindowCase& c) {
    TestCache cache(c.shape);
    for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h) cache.set_window(h, c.window, c.sinks);
    return cache;
}

class CompensationTest : public GpuTest {
protected:
    /// What every stage reads and writes, and what only some of them do.
    struct Bound {
        explicit Bound(const TestCache& cache)
            : state(make_sparse_state(device(), cache.shape.position())),
              tables(make_buffer(cache.table())),
              query(make_buffer(cache.query)),
              partials(make_poisoned<float>(
                  attend_partial_bytes(cache.shape.n_heads(), cache.shape.n_kv_heads, cache.shape.head_dim, kSplits) /
                  4)),
              counters(make_buffer(std::vector<std::uint32_t>(cache.shape.n_kv_heads + 8))),
              attended(device(), "attended", cache.query.size() * 4),
              act(make_poisoned<std::uint32_t>(cache.query.size() / 32 * 20)),
              zeros(make_buffer(std::vector<std::uint32_t>(1u << 16))),
              lse(make_poisoned<float>(cache.shape.n_heads())),
              counts(make_poisoned<std::uint32_t>(cache.shape.n_kv_heads)),
              lists(make_poisoned<std::uint32_t>(64)),
              controls(make_poisoned<SelectControl>(cache.shape.n_kv_heads)) {
            // Rows that are not seen may be anything by now.
            std::vector<float> k = cache.keys, v = cache.values;
            std::vector<std::int64_t> words(kFirstRow * 2 * cache.shape.head_dim, -1);
            for (std::uint32_t h = 0; h < cache.shape.n_kv_heads; ++h) {
                const reference::EvictedSum sum = reference::sum_evicted(cache.view(), h, cache.shape.position());
                words.insert(words.end(), sum.key.begin(), sum.key.end());
                words.insert(words.end(), sum.value.begin(), sum.value.end());
                for (std::uint32_t t = 0; t < cache.shape.n_tokens; ++t)
                    for (std::uint32_t i = 0;
                         i < cache.shape.head_dim && !cache.heads[h].sees(cache.shape.position(), t); ++i)
                        k[cache.key_at(h, t) + i] = v[cache.key_at(h, t) + i] = std::nanf("");
            }
            keys = cache.upload(device(), k);
            values = cache.upload(device(), v);
            sums = make_buffer(words);
        }
        vk::Buffer state, tables, query, partials, counters;
        GuardedBuffer attended;
        vk::Buffer act, zeros, lse, counts, lists, controls, keys, values, sums;
    };

    // The three stages differ in what they bind and push besides.
    static void record(const AttendDense& stage, vk::Recorder& recorder, const Bound& b, const TestCache& cache) {
        stage.record(
            recorder,
            {b.state, b.tables, b.keys, b.values, b.query, b.partials, b.counters, b.attended.range(), b.act, b.sums},
            {TestCache::table_offset, cache.table_stride, 0, kFirstRow});
    }
    static void record(const AttendSparse& stage, vk::Recorder& recorder, const Bound& b, const TestCache& cache) {
        stage.record(recorder,
                     {b.state, b.tables, b.keys, b.values, b.query, b.partials, b.counters, b.attended.range(), b.act,
                      b.zeros, b.zeros, b.zeros, b.lse, b.counts, b.sums},
                     push<AttendSparsePush>(cache));
    }
    static void record(const SelectAttend& stage, vk::Recorder& recorder, const Bound& b, const TestCache& cache) {
        stage.record(recorder,
                     {b.state, b.tables, b.keys, b.values, b.query, b.partials, b.counters, b.attended.range(), b.act,
                      b.lists, b.controls, b.zeros, b.lse, b.counts, b.zeros, b.zeros, b.zeros, b.sums},
                     push<SelectAttendPush>(cache));
    }
    template <typename Push>
    static Push push(const TestCache& cache) {
        Push p{};
        p.table_offset = TestCache::table_offset;
        p.table_stride = cache.table_stride;
        p.evicted = kFirstRow;
        return p;
    }

    /// What the stage attends to. @param config whatever the shape does not say.
    template <typename Stage>
    static std::vector<float> attend(const TestCache& cache, bool evicted, typename Stage::Config config = {}) {
        const CacheShape& s = cache.shape;
        config.n_heads = s.n_heads();
        config.n_kv_heads = s.n_kv_heads;
        config.head_dim = s.head_dim;
        config.kv_type = s.kv_type;
        config.block_size = kBlock;
        config.n_splits = kSplits;
        config.quantize = false;
        config.evicted = evicted;
        const Stage stage(device(), config);
        const Bound b(cache);
        vk::run_once(device(), [&](vk::Recorder& recorder) { record(stage, recorder, b, cache); });
        return b.attended.contents<float>();
    }
    static std::vector<float> dense(const TestCache& cache, bool evicted) {
        return attend<AttendDense>(cache, evicted);
    }
    static std::vector<float> sparse(const TestCache& cache, bool evicted) {
        return attend<AttendSparse>(cache, evicted);
    }
    static std::vector<float> select(const TestCache& cache, bool evicted) {
        SelectAttend::Config config;
        config.level.scorer = Scorer::kBox;
        config.level.unit = 16;
        config.level.rule = BudgetRule::kTopK;
        config.level.budget = 64;
        config.most_rows = 64;
        config.most_always = 1024;
        config.score_stride = IndexerScore::score_stride(64);
        return attend<SelectAttend>(cache, evicted, config);
    }

    // As in attend_dense_test; the mean adds its division, conversion and the weight's logarithm. Only the dense stage
    // has quantised caches here.
    static void expect_right(const WindowCase& c, const TestCache& cache, const std::vector<float>& got) {
        SCOPED_TRACE(c.text());
        const reference::Compensated all = reference::compensate(cache.view(), c.shape.position());
        const reference::Attended wanted = reference::attend_dense(
            cache.query, {c.shape.head_dim, all.keys, all.values, all.heads}, c.shape.position());
        const CacheShape& s = c.shape;
        const double halves =
            half_roundings(device(), {kv_shader("attend_dense", s.kv_type), s.kv_type, s.n_group, s.head_dim, kSplits});
        expect_close(got, wanted.output, allowances(wanted.terms, 14 + std::sqrt(s.n_tokens / 4.0) + halves),
                     "attended");
    }
};

TEST_F(CompensationTest, DenseStage) {
    for (const WindowCase& c : {WindowCase{{.n_tokens = 90}},
                                {{.n_tokens = 103}},
                                {{.n_tokens = 104}},
                                {{.n_tokens = 105}},
                                {{.n_tokens = 199}},
                                {{.n_tokens = 1025}},
                                {{.n_tokens = 1025}, 1, 0},
                                {{.n_tokens = 1025}, 64, 130},
                                {{.n_tokens = 1025}, 900, 0}}) {
        const TestCache cache = windowed(c);
        expect_right(c, cache, dense(cache, true));
    }
}

TEST_F(CompensationTest, DenseStageOfEveryTypeAndWidth) {
    for (const CacheShape& shape : {CacheShape{400, 64, 3, KvType::kF32},
                                    {400, 64, 3, KvType::kQ8_0},
                                    {400, 64, 3, KvType::kQ4_0},
                                    {400, 80, 1, KvType::kF16},
                                    {400, 128, 1, KvType::kF16},
                                    {400, 256, 1, KvType::kF16}}) {
        const WindowCase c{shape};
        const TestCache cache = windowed(c);
        expect_right(c, cache, dense(cache, true));
    }
}

TEST_F(CompensationTest, SparseStage) {
    for (const WindowCase& c :
         {WindowCase{{.n_tokens = 104}}, {{.n_tokens = 105}}, {{.n_tokens = 1025}}, {{.n_tokens = 1025}, 65, 0}}) {
        const TestCache cache = windowed(c);
        expect_right(c, cache, sparse(cache, true));
    }
}

TEST_F(CompensationTest, SelectingStage) {
    for (const WindowCase& c :
         {WindowCase{{.n_tokens = 104}}, {{.n_tokens = 105}}, {{.n_tokens = 900}}, {{.n_tokens = 900}, 65, 0}}) {
        const TestCache cache = windowed(c);
        expect_right(c, cache, select(cache, true));
    }
}

// Rows that are equal lose nothing by being taken together: the window gives what everything gives.
TEST_F(CompensationTest, EqualRowsAreNotMissed) {
    WindowCase c{{.n_tokens = 1000}};
    TestCache cache = windowed(c);
    for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h)
        for (std::uint32_t t = c.sinks; t < c.shape.n_tokens; ++t)
            for (std::uint32_t i = 0; i < c.shape.head_dim && !cache.heads[h].sees(c.shape.position(), t); ++i) {
                cache.keys[cache.key_at(h, t) + i] = cache.keys[cache.key_at(h, c.sinks) + i];
                cache.values[cache.key_at(h, t) + i] = cache.values[cache.key_at(h, c.sinks) + i];
            }
    TestCache full = cache;
    for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h) full.set_window(h, 0, 0);
    const reference::Attended wanted = reference::attend_dense(full.query, full.view(), c.shape.position());
    const std::vector<double> allowance = allowances(wanted.terms, 14 + std::sqrt(c.shape.n_tokens / 4.0));
    expect_close(dense(cache, true), wanted.output, allowance, "dense");
    expect_close(sparse(cache, true), wanted.output, allowance, "sparse");
}

// Before anything has left, and in heads that keep everything, it is the stage without the token to the bit.
TEST_F(CompensationTest, NothingToCompensateChangesNoBit) {
    for (const WindowCase& c : {WindowCase{{.n_tokens = 104}}, {{.n_tokens = 1000}, 0, 0}}) {
        const TestCache cache = windowed(c);
        EXPECT_EQ(dense(cache, true), dense(cache, false));
        EXPECT_EQ(sparse(cache, true), sparse(cache, false));
    }
}

}  // namespace
}  // namespace winnow::test
