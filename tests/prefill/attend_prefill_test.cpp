// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/attend_prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "tests/reference/attend_prefill.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/kv_rows.h"
#include "tests/support/sparse_data.h"
#include "winnow/error.h"

namespace winnow::test {
namespace {

struct Chunk {
    std::uint32_t position, n_tokens;
};

/// Turns the heads of a cache into local ones, as KvLayout sizes them for chunks of at most `max_chunk` tokens, and
/// appends the tokens again in their order: later ones overwrite those that no query may look back to.
void make_rings(TestCache& cache, std::uint32_t window, std::uint32_t sinks, std::uint32_t max_chunk) {
    for (std::uint32_t h = 0; h < cache.heads.size(); ++h) {
        reference::HeadView& head = cache.heads[h];
        cache.set_window(h, window, sinks);
        const std::uint32_t ring = (window + max_chunk - 1 + kBlock - 2) / kBlock + 1;
        const std::uint32_t sink_blocks = (sinks + kBlock - 1) / kBlock;
        if (sink_blocks + ring >= head.blocks.size()) continue;
        head.sink_blocks = sink_blocks;
        head.ring_blocks = ring;
        head.blocks.resize(sink_blocks + ring);
    }
    ReplicableRng rng(window);
    cache.keys.assign(cache.keys.size(), std::numeric_limits<float>::quiet_NaN());
    cache.values = cache.keys;
    for (std::uint32_t h = 0; h < cache.heads.size(); ++h) {
        for (std::uint32_t token = 0; token < cache.shape.n_tokens; ++token) {
            for (std::size_t i = 0; i < cache.shape.head_dim; ++i) {
                cache.keys[cache.key_at(h, token) + i] = rounded_to_half(rng.normal());
                cache.values[cache.key_at(h, token) + i] = rounded_to_half(rng.normal());
            }
        }
    }
}

/// Parameter: the shader variant that f16 caches get; the others get what the device prefers.
class AttendPrefillTest : public GpuTest, public ::testing::WithParamInterface<const char*> {
protected:
    void SetUp() override {
        GpuTest::SetUp();
        if (IsSkipped()) return;
        forced_.emplace("WINNOW_FORCE_VARIANT", GetParam());
        try {
            const AttendPrefill stage(device(), config(shape_of(64, 3, KvType::kF16, {0, 1})));
            if (stage.variant() != GetParam())
                GTEST_SKIP() << "no texel loads, or no cooperative matrices of a fitting shape";
        } catch (const Error& error) {
            GTEST_SKIP() << error.what();
        }
    }
    static AttendPrefill::Config config(const CacheShape& s) {
        return {s.n_heads(), s.n_kv_heads, s.head_dim, s.kv_type, kBlock};
    }
    static CacheShape shape_of(std::uint32_t head_dim, std::uint32_t n_group, KvType type, const Chunk& chunk) {
        CacheShape s;
        s.head_dim = head_dim;
        s.n_group = n_group;
        s.kv_type = type;
        s.n_tokens = chunk.position + chunk.n_tokens;
        return s;
    }

    static std::vector<std::uint16_t> random_queries(const CacheShape& s, std::uint32_t n_tokens, float spread = 2) {
        ReplicableRng rng(s.n_tokens);
        std::vector<std::uint16_t> q;
        for (std::size_t i = 0; i < std::size_t{n_tokens} * s.n_heads() * s.head_dim; ++i)
            q.push_back(half_bits(rng.normal(0, spread / std::sqrt(static_cast<float>(s.head_dim)))));
        return q;
    }

    static std::vector<std::uint16_t> run(const AttendPrefill& stage, const TestCache& cache, const Chunk& chunk,
                                          const std::vector<std::uint16_t>& queries) {
        const vk::Buffer tables = make_buffer(cache.table());
        const vk::Buffer keys = cache.upload(device(), cache.keys);
        const vk::Buffer values = cache.upload(device(), cache.values);
        const vk::Buffer query = make_buffer(queries);
        const GuardedBuffer out(device(), "attended", queries.size() * 2);
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            stage.record(recorder, {tables, keys, values, query, out.range()},
                         {chunk.n_tokens, chunk.position, TestCache::table_offset, cache.table_stride});
        });
        return out.contents<std::uint16_t>();
    }

    static void check(const AttendPrefill& stage, const TestCache& cache, const Chunk& chunk,
                      const std::vector<std::uint16_t>& queries) {
        const CacheShape& s = cache.shape;
        const reference::HeadView& head = cache.heads[0];
        SCOPED_TRACE(fmt::format("{} tokens at {}, {}, window {} sinks {} ring {}", chunk.n_tokens, chunk.position,
                                 s.text(), head.window, head.sink_tokens, head.ring_blocks));
        std::vector<float> query_values, got;
        for (const std::uint16_t bits : queries) query_values.push_back(half_value(bits));
        for (const std::uint16_t bits : run(stage, cache, chunk, queries)) got.push_back(half_value(bits));
        const reference::Attended ref =
            reference::attend_prefill(query_values, s.n_heads(), cache.view(), chunk.position);
        // Scores add head_dim products and sums add all tokens one after another: random rounding gives square roots
        // (Higham and Mary 2019). Terms carry their condition. Then the result is rounded to f16.
        double n_roundings = 8 + 2 * std::sqrt(s.n_tokens + s.head_dim);
        // Probabilities of f16, over their unrounded sum; matrix units may cut off where the plain variant rounds.
        if (stage.variant().find("coopmat") != std::string::npos) {
            n_roundings = 2 * n_roundings + 0x1p13;
            if (is_quantized(s.kv_type))
                n_roundings += 0x1p13;  // keys and values become halves, as in half_roundings()
        }
        std::vector<double> allowance = allowances(ref.terms, n_roundings);
        for (std::size_t i = 0; i < allowance.size(); ++i) allowance[i] += 0x1p-11 * std::abs(ref.output[i]) + 0x1p-25;
        expect_close(got, ref.output, allowance, "attended");
    }

    static void check(const AttendPrefill& stage, const TestCache& cache, const Chunk& chunk) {
        check(stage, cache, chunk, random_queries(cache.shape, chunk.n_tokens));
    }

private:
    std::optional<ScopedEnv> forced_;
};

TEST_P(AttendPrefillTest, MatchesReferenceAtEveryHeadShape) {
    const Chunk chunk{190, 9};
    for (const auto& [head_dim, n_group] : {std::pair{64u, 1u},
                                            {64u, 3u},
                                            {64u, 4u},
                                            {64u, 7u},
                                            {64u, 8u},
                                            {80u, 1u},
                                            {96u, 3u},
                                            {128u, 4u},
                                            {256u, 4u}}) {
        const TestCache cache(shape_of(head_dim, n_group, KvType::kF16, chunk));
        check(AttendPrefill(device(), config(cache.shape)), cache, chunk);
    }
    for (const auto& [head_dim, type] : {std::pair{80u, KvType::kF32},
                                         {64u, KvType::kQ8_0},
                                         {80u, KvType::kQ8_0},
                                         {128u, KvType::kQ8_0},
                                         {80u, KvType::kQ4_0},
                                         {256u, KvType::kQ4_0}}) {
        const TestCache cache(shape_of(head_dim, 1, type, chunk));
        check(AttendPrefill(device(), config(cache.shape)), cache, chunk);
    }
}

TEST_P(AttendPrefillTest, MatchesReferenceForEveryChunk) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        const AttendPrefill stage(device(), config(shape_of(64, 3, type, {0, 1})));
        for (const std::uint32_t position : {0u, 1u, 63u, 64u, 500u}) {
            for (const std::uint32_t n_tokens : {1u, 7u, 8u, 64u}) {
                const TestCache cache(shape_of(64, 3, type, {position, n_tokens}));
                check(stage, cache, {position, n_tokens});
            }
        }
    }
}

TEST_P(AttendPrefillTest, SeesWindowAndSinksOnly) {
    const AttendPrefill stage(device(), config(shape_of(64, 4, KvType::kF16, {0, 1})));
    for (const auto& [window, sinks] : {std::pair{1u, 0u}, {16u, 0u}, {64u, 4u}, {100u, 70u}}) {
        for (const std::uint32_t max_chunk : {1u, 8u, 64u}) {
            for (const std::uint32_t position : {0u, 63u, 64u, 500u}) {
                const Chunk chunk{position, max_chunk};
                TestCache cache(shape_of(64, 4, KvType::kF16, chunk));
                make_rings(cache, window, sinks, max_chunk);
                check(stage, cache, chunk);
            }
        }
    }
}

TEST_P(AttendPrefillTest, EveryTile) {
    for (const std::uint32_t head_dim : {128u, 256u}) {
        const Chunk chunk{150, 70};
        const TestCache cache(shape_of(head_dim, 4, KvType::kF16, chunk));
        for (const std::uint32_t n_busy : {0u, 1000u})
            check(AttendPrefill(device(), config(cache.shape), n_busy), cache, chunk);
    }
}

TEST_P(AttendPrefillTest, HeadsOfALayerMayDiffer) {
    const Chunk chunk{500, 30};
    TestCache cache(shape_of(64, 4, KvType::kF16, chunk));
    cache.set_window(1, 40, 4);
    check(AttendPrefill(device(), config(cache.shape)), cache, chunk);
}

TEST_P(AttendPrefillTest, ExtremeScores) {
    const Chunk chunk{190, 9};
    TestCache cache(shape_of(64, 3, KvType::kF16, chunk));
    const AttendPrefill stage(device(), config(cache.shape));
    const auto with_key = [&](auto&& key) {
        for (std::uint32_t h = 0; h < cache.heads.size(); ++h)
            for (std::uint32_t token = 0; token < cache.shape.n_tokens; ++token)
                for (std::size_t i = 0; i < cache.shape.head_dim; ++i)
                    cache.keys[cache.key_at(h, token) + i] = key(token, cache.keys[cache.key_at(h, token) + i]);
    };
    const std::vector<std::uint16_t> large(random_queries(cache.shape, chunk.n_tokens).size(), half_bits(-300));
    {
        SCOPED_TRACE("huge negative scores");
        with_key([](std::uint32_t, float key) { return std::abs(key); });
        check(stage, cache, chunk, large);
    }
    for (const std::uint32_t loud : {0u, 100u, 190u}) {
        SCOPED_TRACE(fmt::format("token {} dominates", loud));
        with_key([&](std::uint32_t token, float) { return token == loud ? -1.0f : 2.0f; });
        check(stage, cache, chunk, large);
    }
    {
        SCOPED_TRACE("all equal");
        with_key([](std::uint32_t, float) { return 1.0f; });
        check(stage, cache, chunk, large);
    }
}

TEST_P(AttendPrefillTest, GivesTheSameBitsTwice) {
    const Chunk chunk{500, 64};
    const TestCache cache(shape_of(64, 3, KvType::kF16, chunk));
    const AttendPrefill stage(device(), config(cache.shape));
    const std::vector<std::uint16_t> queries = random_queries(cache.shape, chunk.n_tokens);
    EXPECT_EQ(run(stage, cache, chunk, queries), run(stage, cache, chunk, queries));
}

INSTANTIATE_TEST_SUITE_P(Variants, AttendPrefillTest,
                         ::testing::Values("attend_prefill_f16", "attend_prefill_texel_f16",
                                           "attend_prefill_coopmat_f16"),
                         [](const auto& variant) { return std::string(variant.param); });

}  // namespace
}  // namespace winnow::test
