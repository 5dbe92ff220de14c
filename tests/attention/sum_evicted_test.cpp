// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/sum_evicted.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/vk/timeline.h"
#include "tests/reference/sum_evicted.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/kv_rows.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kFirstRow = 2, kWindow = 70, kSinks = 5;

/// The sums of a cache's heads as the device has them, between rows that belong to nobody.
struct Sums {
    Sums(vk::Device& dev, const CacheShape& s)
        : sums(dev, "sums",
               std::as_bytes(std::span<const std::int64_t>(
                   std::vector<std::int64_t>((kFirstRow + s.n_kv_heads) * 2 * s.head_dim, 0)))),
          counts(
              dev, "counts",
              std::as_bytes(std::span<const std::uint32_t>(std::vector<std::uint32_t>(kFirstRow + s.n_kv_heads, 0)))) {}
    GuardedBuffer sums, counts;
};

class SumEvictedTest : public GpuTest {
protected:
    static void TearDownTestSuite() { stages_.clear(); }
    static const SumEvicted& stage(const CacheShape& s) {
        std::unique_ptr<SumEvicted>& result =
            stages_[fmt::format("{} {} {}", s.head_dim, static_cast<int>(s.kv_type), s.n_kv_heads)];
        if (!result)
            result =
                std::make_unique<SumEvicted>(device(), SumEvicted::Config{s.n_kv_heads, s.head_dim, s.kv_type, kBlock});
        return *result;
    }
    /// The first kv head sees sinks and a window, the others everything.
    static TestCache windowed(const CacheShape& shape, std::uint32_t window = kWindow, std::uint32_t sinks = kSinks) {
        TestCache cache(shape);
        cache.set_window(0, window, sinks);
        return cache;
    }
    /// The stage, for each of these lengths of the cache in turn; WINNOW_AFTER_STEP is that of `position`.
    static void run(const TestCache& cache, const Sums& to, const std::vector<std::uint32_t>& lengths,
                    std::uint32_t position = 0, bool stopped = false) {
        const vk::Buffer state = make_sparse_state(device(), position, stopped), tables = make_buffer(cache.table()),
                         keys = cache.upload(device(), cache.keys), values = cache.upload(device(), cache.values);
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            for (const std::uint32_t n : lengths) {
                stage(cache.shape)
                    .record(recorder, {state, tables, keys, values, to.sums.range(), to.counts.range()},
                            {TestCache::table_offset, cache.table_stride, kFirstRow, n});
                recorder.barrier();
            }
        });
    }
    static void expect_sums(const TestCache& cache, const Sums& got, std::uint32_t n_tokens) {
        SCOPED_TRACE(fmt::format("{} at {} tokens", cache.shape.text(), n_tokens));
        const auto sums = got.sums.contents<std::int64_t>();
        const auto counts = got.counts.contents<std::uint32_t>();
        std::vector<std::int64_t> wanted(kFirstRow * 2 * cache.shape.head_dim, 0);
        std::vector<std::uint32_t> wanted_counts(kFirstRow, 0);
        for (std::uint32_t h = 0; h < cache.shape.n_kv_heads; ++h) {
            const reference::EvictedSum sum = reference::sum_evicted(cache.view(), h, n_tokens);
            wanted.insert(wanted.end(), sum.key.begin(), sum.key.end());
            wanted.insert(wanted.end(), sum.value.begin(), sum.value.end());
            wanted_counts.push_back(sum.n_tokens);
        }
        EXPECT_EQ(counts, wanted_counts);
        EXPECT_EQ(sums, wanted);
    }
    static void check(const CacheShape& shape, std::uint32_t window = kWindow, std::uint32_t sinks = kSinks) {
        const TestCache cache = windowed(shape, window, sinks);
        const Sums sums(device(), shape);
        run(cache, sums, {shape.n_tokens});
        expect_sums(cache, sums, shape.n_tokens);
    }

private:
    static std::map<std::string, std::unique_ptr<SumEvicted>> stages_;
};
std::map<std::string, std::unique_ptr<SumEvicted>> SumEvictedTest::stages_;

TEST_F(SumEvictedTest, EveryLengthOfEveryType) {
    for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8_0, KvType::kQ4_0})
        for (const std::uint32_t n :
             {1u, kSinks, kWindow, kWindow + kSinks - 1, kWindow + kSinks, kWindow + kSinks + 1, 128u, 129u, 700u})
            check({.n_tokens = n, .kv_type = type});
}

TEST_F(SumEvictedTest, EveryWindow) {
    for (const std::uint32_t window : {1u, 63u, 64u, 65u, 299u, 300u, 0xffffffffu})
        for (const std::uint32_t sinks : {0u, 1u, 64u, 299u, 5000u}) check({.n_tokens = 300}, window, sinks);
}

TEST_F(SumEvictedTest, EveryHeadShape) {
    for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8_0, KvType::kQ4_0})
        for (const std::uint32_t head_dim : {64u, 80u, 128u, 256u})
            check({.n_tokens = 201, .head_dim = head_dim, .kv_type = type, .n_kv_heads = 3});
}

// Any numbers: those of an f32 cache are rounded to the unit once.
TEST_F(SumEvictedTest, LargeAndSmallNumbers) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        TestCache cache = windowed({.n_tokens = 500, .kv_type = type});
        ReplicableRng rng(5);
        for (std::vector<float>* rows : {&cache.keys, &cache.values})
            for (float& x : *rows)
                if (!std::isnan(x)) x = std::ldexp(rng.normal(0, 1), static_cast<int>(rng.integer(-30, 13)));
        if (type == KvType::kF16)
            for (std::vector<float>* rows : {&cache.keys, &cache.values})
                for (float& x : *rows)
                    if (!std::isnan(x)) x = rounded_to_half(x);
        const Sums sums(device(), cache.shape);
        run(cache, sums, {500});
        expect_sums(cache, sums, 500);
    }
}

TEST_F(SumEvictedTest, OfAllWaysTheSameSums) {
    const TestCache cache = windowed({.n_tokens = 500});
    std::vector<std::uint32_t> one_by_one;
    for (std::uint32_t n = 1; n <= 321; ++n) one_by_one.push_back(n);
    for (const std::vector<std::uint32_t>& lengths :
         {one_by_one, {64, 128, 192, 256, 320, 321}, {76, 300, 321}, {500, 321}, {500, 77, 0, 321}, {321, 321}}) {
        const Sums sums(device(), cache.shape);
        run(cache, sums, lengths);
        expect_sums(cache, sums, 321);
    }
    const Sums sums(device(), cache.shape);
    run(cache, sums, {500, 10});
    expect_sums(cache, sums, 10);  // nothing is left
}

TEST_F(SumEvictedTest, AfterAStep) {
    const TestCache cache = windowed({.n_tokens = 500});
    for (const std::uint32_t position : {kWindow + kSinks - 2, kWindow + kSinks - 1, 400u}) {
        const Sums sums(device(), cache.shape);
        run(cache, sums, {position, WINNOW_AFTER_STEP}, position);
        expect_sums(cache, sums, position + 1);
        run(cache, sums, {WINNOW_AFTER_STEP}, position + 1, true);  // a surplus step
        expect_sums(cache, sums, position + 1);
    }
}

// A cache that grows in a ring with room for its window and a chunk: each row is summed before its place is taken.
TEST_F(SumEvictedTest, RingsAreSummedBeforeTheyAreOverwritten) {
    constexpr std::uint32_t kChunk = 64, kTokens = 900;
    for (const KvType type : {KvType::kF16, KvType::kQ8_0}) {
        const TestCache all = windowed({.n_tokens = kTokens, .kv_type = type, .n_kv_heads = 1});
        TestCache ring = all;
        ring.heads[0].sink_blocks = 1;
        ring.heads[0].ring_blocks = (kWindow + kChunk - 1 + kBlock - 2) / kBlock + 1;
        const Sums sums(device(), all.shape);
        ReplicableRng rng(1);
        for (std::uint32_t n = 0; n < kTokens;) {
            const std::uint32_t end = std::min(kTokens, n + static_cast<std::uint32_t>(rng.integer(1, kChunk)));
            for (; n < end; ++n)
                for (std::uint32_t i = 0; i < all.shape.head_dim; ++i) {
                    ring.keys[ring.key_at(0, n) + i] = all.keys[all.key_at(0, n) + i];
                    ring.values[ring.key_at(0, n) + i] = all.values[all.key_at(0, n) + i];
                }
            run(ring, sums, {n});
            const std::uint32_t back = static_cast<std::uint32_t>(rng.integer(0, 20));
            if (n > back) run(ring, sums, {n - back, n});  // as far as the ring still has the window
        }
        expect_sums(all, sums, kTokens);
    }
}

}  // namespace
}  // namespace winnow::test
