// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_dense.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/kv/kv_layout.h"
#include "runtime/kv/step_buffers.h"
#include "tests/reference/attend_dense.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/random.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kFirstCounter = 3;
constexpr std::uint32_t kTableOffset = 7;
constexpr std::uint16_t kHalfNan = 0x7fff;

struct Shape {
    std::uint32_t n_tokens = 199;
    std::uint32_t head_dim = 64;
    std::uint32_t n_group = 3;
    KvType kv_type = KvType::kF16;
    std::uint32_t n_splits = 3;
    std::uint32_t window = 0;
    std::uint32_t sink_tokens = 0;
    bool ring = false;
    std::uint32_t n_kv_heads = 2;

    std::uint32_t position() const { return n_tokens - 1; }
    std::uint32_t n_heads() const { return n_group * n_kv_heads; }
    bool quantize() const { return n_group * head_dim % 32 == 0; }
    std::string text() const {
        return fmt::format("n {} dim {} group {} {} splits {} window {} sinks {}{}", n_tokens, head_dim, n_group,
                           kv_type == KvType::kF16 ? "f16" : "f32", n_splits, window, sink_tokens, ring ? " ring" : "");
    }
    AttendDense::Config config() const {
        return {n_heads(), n_kv_heads, head_dim, kv_type, kBlock, n_splits, quantize()};
    }
};

/// Inputs of a run. Keys and values are halves, so that both cache types hold the same numbers.
struct Inputs {
    Shape shape;
    std::vector<reference::HeadView> heads;
    std::vector<float> query;
    std::vector<std::uint16_t> keys, values;  // [n_physical, kBlock, head_dim]; NaN where nothing is seen

    template <typename Visit>  // of the rows that are seen: visit(kv_head, token, first element)
    void each_row(Visit&& visit) const {
        for (std::uint32_t h = 0; h < heads.size(); ++h)
            for (std::uint32_t token = 0; token < shape.n_tokens; ++token)
                if (heads[h].sees(shape.position(), token)) visit(h, token, heads[h].row(token) * shape.head_dim);
    }
    static std::vector<float> floats(const std::vector<std::uint16_t>& halves) {
        std::vector<float> out;
        for (const std::uint16_t bits : halves) out.push_back(half_value(bits));
        return out;
    }
};

std::uint16_t random_half(ReplicableRng& rng) {  // 2^-6 to 2, either sign
    return static_cast<std::uint16_t>((rng.bits() & 0x8000) | (rng.integer(9, 15) << 10) | (rng.bits() & 0x3ff));
}

Inputs make_inputs(const Shape& s, std::uint64_t stream = 0) {
    ReplicableRng rng(stream * 7919 + s.n_tokens * 31 + s.head_dim);
    Inputs in;
    in.shape = s;
    std::vector<std::uint32_t> physical;
    for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) {
        reference::HeadView head;
        head.window = s.window;
        head.sink_tokens = s.sink_tokens;
        std::uint32_t n_blocks = s.position() / kBlock + 1;
        if (s.ring) {
            head.sink_blocks = (s.sink_tokens + kBlock - 1) / kBlock;
            head.ring_blocks = (s.window + kBlock - 2) / kBlock + 1;
            n_blocks = head.sink_blocks + head.ring_blocks;
        }
        head.blocks.resize(n_blocks);
        physical.resize(physical.size() + n_blocks);
        in.heads.push_back(head);
    }
    physical.resize(physical.size() + 2);  // that nobody owns
    for (std::uint32_t i = 0; i < physical.size(); ++i) {
        physical[i] = i;
        std::swap(physical[i], physical[static_cast<std::size_t>(rng.integer(0, i))]);
    }
    std::size_t next = 0;
    for (reference::HeadView& head : in.heads)
        for (std::uint32_t& block : head.blocks) block = physical[next++];
    in.query = rng.normals(s.n_heads() * s.head_dim, 0, 3 / std::sqrt(static_cast<float>(s.head_dim)));
    in.keys.assign(physical.size() * kBlock * s.head_dim, kHalfNan);
    in.values = in.keys;
    in.each_row([&](std::uint32_t, std::uint32_t, std::size_t at) {
        for (std::size_t i = at; i < at + s.head_dim; ++i) {
            in.keys[i] = random_half(rng);
            in.values[i] = random_half(rng);
        }
    });
    return in;
}

struct Outputs {
    std::vector<float> attended;
    std::vector<std::uint32_t> act, counters;
};

class AttendDenseTest : public GpuTest {
protected:
    static vk::Buffer make_pool(KvType type, const std::vector<std::uint16_t>& halves) {
        return type == KvType::kF16 ? make_buffer(halves, "pool") : make_buffer(Inputs::floats(halves), "pool");
    }

    static Outputs run(const AttendDense& stage, const Inputs& in, bool stopped = false) {
        const KvType type = in.shape.kv_type;
        return run(stage, in.shape, in.heads, make_pool(type, in.keys), make_pool(type, in.values), in.query, stopped);
    }
    static Outputs run(const AttendDense& stage, const Shape& s, const std::vector<reference::HeadView>& heads,
                       const vk::Buffer& keys, const vk::Buffer& values, const std::vector<float>& queries,
                       bool stopped = false) {
        std::size_t stride = 0;
        for (const auto& head : heads) stride = std::max(stride, WINNOW_TABLE_HEADER + head.blocks.size() + 1);
        std::vector<std::uint32_t> table(kTableOffset + stride * heads.size(), 0x00ffffff);
        for (std::size_t h = 0; h < heads.size(); ++h) {
            const reference::HeadView& head = heads[h];
            std::uint32_t* row = table.data() + kTableOffset + h * stride;
            row[WINNOW_TABLE_SINK_BLOCKS] = head.sink_blocks;
            row[WINNOW_TABLE_RING_BLOCKS] = head.ring_blocks;
            row[WINNOW_TABLE_WINDOW] = head.window;
            row[WINNOW_TABLE_SINK_TOKENS] = head.sink_tokens;
            std::copy(head.blocks.begin(), head.blocks.end(), row + WINNOW_TABLE_HEADER);
        }
        StepState state{};
        state.position = s.position();
        state.stopped = stopped ? 1 : 0;
        const std::size_t n_out = s.n_heads() * s.head_dim;
        const vk::Buffer states = make_buffer(std::vector{state});
        const vk::Buffer tables = make_buffer(table);
        const vk::Buffer query = make_buffer(queries);
        const vk::Buffer partials =
            make_poisoned<float>(attend_partial_bytes(s.n_heads(), s.n_kv_heads, s.head_dim, s.n_splits) / 4);
        const vk::Buffer counters = make_buffer(std::vector<std::uint32_t>(kFirstCounter + s.n_kv_heads + 2));
        const GuardedBuffer attended(device(), "attended", n_out * sizeof(float));
        const GuardedBuffer act(device(), "act", (n_out / 32 + 1) * 80);
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            stage.record(recorder,
                         {states, tables, keys, values, query, partials, counters, attended.range(), act.range()},
                         {kTableOffset, static_cast<std::uint32_t>(stride), kFirstCounter, WINNOW_NO_SUMS});
        });
        return {attended.contents<float>(), act.contents<std::uint32_t>(), download<std::uint32_t>(counters)};
    }

    /// Roundings of a sum over n tokens. A lane group, one of at least four, adds its tokens one after another: random
    /// rounding gives the square root of their number (Higham and Mary 2019). The merge's tree and the few roundings of
    /// a term are the rest. The terms carry their condition (reference).
    static double n_roundings(std::uint32_t n_tokens) { return 8 + std::sqrt(n_tokens / 4.0); }

    static void expect_right(const Inputs& in, const Outputs& out) {
        const Shape& s = in.shape;
        SCOPED_TRACE(s.text());
        const std::vector<float> keys = Inputs::floats(in.keys);
        const std::vector<float> values = Inputs::floats(in.values);
        const reference::Attended ref =
            reference::attend_dense(in.query, {s.head_dim, keys, values, in.heads}, s.position());
        expect_close(out.attended, ref.output, allowances(ref.terms, n_roundings(s.n_tokens)), "attended");
        for (std::size_t i = 0; i < out.counters.size(); ++i) EXPECT_EQ(out.counters[i], 0u) << "counter " << i;
        expect_quantized(s, out.attended, out.act);
    }

    // The quantised form of the f32 output itself.
    static void expect_quantized(const Shape& s, const std::vector<float>& attended, std::vector<std::uint32_t> words) {
        const std::size_t nb = s.quantize() ? attended.size() / 32 : 0;
        for (std::size_t i = nb * 20; i < words.size(); ++i) ASSERT_EQ(words[i], ~0u) << "word " << i;
        words.resize(nb * 20);
        if (nb == 0) return;
        const std::vector<double> nothing(attended.size());
        expect_activations(words, to_doubles(attended), nothing, std::vector<double>(nb), std::vector<double>(nb),
                           "act");
    }

    static void check(const Shape& s) {
        const AttendDense stage(device(), s.config());
        const Inputs in = make_inputs(s);
        expect_right(in, run(stage, in));
    }

    static void check_quantised(Shape s) {
        const AttendDense stage(device(), s.config());
        for (const std::uint32_t n_tokens : {65u, 1021u}) {
            s.n_tokens = n_tokens;
            const TestCache cache({.n_tokens = n_tokens,
                                   .head_dim = s.head_dim,
                                   .n_group = s.n_group,
                                   .kv_type = s.kv_type,
                                   .n_kv_heads = s.n_kv_heads});
            SCOPED_TRACE(cache.shape.text());
            const Outputs out = run(stage, s, cache.heads, cache.upload(device(), cache.keys),
                                    cache.upload(device(), cache.values), cache.query);
            const reference::Attended ref = reference::attend_dense(cache.query, cache.view(), s.position());
            const double halves = half_roundings(
                device(), {kv_shader("attend_dense", s.kv_type), s.kv_type, s.n_group, s.head_dim, s.n_splits});
            expect_close(out.attended, ref.output, allowances(ref.terms, n_roundings(n_tokens) + halves), "attended");
            for (const std::uint32_t counter : out.counters) EXPECT_EQ(counter, 0u);
            expect_quantized(s, out.attended, out.act);
        }
    }
};

TEST_F(AttendDenseTest, MatchesReferenceAtEveryHeadShape) {
    // Software drivers compile the wide ones for 10 s and more: each width and each group once or twice.
    for (const std::uint32_t n_group : {1u, 3u, 4u, 7u, 8u}) check({199, 64, n_group});
    for (const auto& [head_dim, n_group] :
         {std::pair{80u, 1u}, {80u, 4u}, {96u, 3u}, {128u, 4u}, {256u, 1u}, {256u, 4u}})
        check({199, head_dim, n_group});
}

// Scores are shared out over lanes by how many tokens and heads there are, on a GPU otherwise than the software
// driver's table has it.
TEST_F(AttendDenseTest, MatchesReferenceInEveryGroupShape) {
    for (const auto& [n_group, tuning] : {std::pair{1u, AttendTuning{64, 8, 4}},
                                          {3u, AttendTuning{192, 8, 4}},
                                          {4u, AttendTuning{64, 8, 1}},
                                          {4u, AttendTuning{64, 4, 4}},
                                          {2u, AttendTuning{64, 2, 2}}}) {
        Shape s{1021, 64, n_group};
        AttendDense::Config c = s.config();
        c.tuning = tuning;
        const AttendDense stage(device(), c);
        SCOPED_TRACE(fmt::format("{} invocations, {} lanes, {} tokens", tuning.group_size, tuning.lanes,
                                 tuning.tokens_in_flight));
        for (const std::uint32_t n_tokens : {65u, 1021u}) {
            s.n_tokens = n_tokens;
            const Inputs in = make_inputs(s);
            expect_right(in, run(stage, in));
        }
    }
}

TEST_F(AttendDenseTest, MatchesReferenceAtEveryLength) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        for (const std::uint32_t n_splits : {1u, 3u, 16u}) {
            Shape s{1, 64, 3, type, n_splits};
            const AttendDense stage(device(), s.config());
            for (const std::uint32_t n_tokens : {1u, 63u, 64u, 65u, 199u, 1021u, 4096u + 7u}) {
                s.n_tokens = n_tokens;
                const Inputs in = make_inputs(s);
                expect_right(in, run(stage, in));
            }
        }
    }
}

TEST_F(AttendDenseTest, OtherHeadsInF32) {
    for (const std::uint32_t head_dim : {80u, 96u, 128u, 256u}) check({1021, head_dim, 1, KvType::kF32, 16});
}

// Caches of codes and scales, which a TestCache holds exactly.
TEST_F(AttendDenseTest, QuantisedCaches) {
    for (const KvType type : {KvType::kQ8_0, KvType::kQ4_0})
        for (const auto& [head_dim, n_group, n_splits] : {std::tuple{80u, 2u, 3u}, {128u, 1u, 16u}, {256u, 1u, 3u}})
            check_quantised({1, head_dim, n_group, type, n_splits});
}

// Where matrix units are chosen, lanes serve other heads and devices all the same.
TEST_F(AttendDenseTest, LanesOfEveryTypeAndWidth) {
    const ScopedEnv lanes("WINNOW_FORCE_VARIANT", "attend_dense_f16,attend_dense_q8_0,attend_dense_q4_0");
    for (const std::uint32_t head_dim : {128u, 256u}) check({199, head_dim, 2});
    for (const KvType type : {KvType::kQ8_0, KvType::kQ4_0}) check_quantised({1, 64, 3, type, 3});
}

TEST_F(AttendDenseTest, SeesWindowAndSinksOnly) {
    struct Window {
        std::uint32_t n_tokens, window, sink_tokens;
    };
    for (const std::uint32_t n_splits : {1u, 3u}) {
        Shape s{1, 64, 3, KvType::kF16, n_splits};
        const AttendDense stage(device(), s.config());
        for (const Window w : {Window{1, 16, 0},
                               {63, 64, 4},
                               {65, 64, 0},
                               {66, 1, 1},
                               {199, 100, 4},
                               {640, 100, 70},
                               {1021, 64, 64},
                               {1021, 65, 130},
                               {1021, 512, 0},
                               {1088, 2000, 4}}) {
            for (const bool ring : {false, true}) {
                s.n_tokens = w.n_tokens;
                s.window = w.window;
                s.sink_tokens = w.sink_tokens;
                s.ring = ring;
                const Inputs in = make_inputs(s);
                expect_right(in, run(stage, in));
            }
        }
    }
}

TEST_F(AttendDenseTest, HeadsOfALayerMayDiffer) {
    const Shape s{777, 64, 4, KvType::kF16, 3};
    Shape windowed = s;
    windowed.window = 100;
    windowed.sink_tokens = 4;
    windowed.ring = true;
    // kv head 0 full, kv head 1 local, over pools of their own physical blocks.
    Inputs in = make_inputs(s);
    const Inputs local = make_inputs(windowed, 1);
    const auto offset = static_cast<std::uint32_t>(in.keys.size() / (kBlock * s.head_dim));
    in.heads[1] = local.heads[1];
    for (std::uint32_t& block : in.heads[1].blocks) block += offset;
    in.keys.insert(in.keys.end(), local.keys.begin(), local.keys.end());
    in.values.insert(in.values.end(), local.values.begin(), local.values.end());
    expect_right(in, run(AttendDense(device(), s.config()), in));
}

TEST_F(AttendDenseTest, ExtremeScores) {
    const Shape s{1021, 128, 4, KvType::kF16, 3};
    const AttendDense stage(device(), s.config());
    constexpr std::uint16_t kOne = 0x3c00, kSmall = 0x2000, kMinusTwo = 0xc000;
    const auto with_keys = [&](auto&& key) {  // key(token, random bits)
        Inputs in = make_inputs(s);
        in.each_row([&](std::uint32_t, std::uint32_t token, std::size_t at) {
            for (std::size_t i = 0; i < s.head_dim; ++i) in.keys[at + i] = key(token, in.keys[at + i]);
        });
        return in;
    };
    {
        SCOPED_TRACE("all equal");
        const Inputs in = with_keys([&](std::uint32_t, std::uint16_t) { return kOne; });
        expect_right(in, run(stage, in));
    }
    for (const std::uint32_t loud : {0u, 500u, 1020u}) {
        SCOPED_TRACE(fmt::format("token {} dominates", loud));
        Inputs in = with_keys([&](std::uint32_t token, std::uint16_t) { return token == loud ? kOne : kMinusTwo; });
        in.query.assign(in.query.size(), 0.7f);
        expect_right(in, run(stage, in));
    }
    {
        SCOPED_TRACE("huge negative scores");
        Inputs in =
            with_keys([&](std::uint32_t, std::uint16_t key) { return static_cast<std::uint16_t>(key & 0x7fff); });
        for (float& q : in.query) q = -300 * std::abs(q) - 100;  // scores of about -20,000
        expect_right(in, run(stage, in));
    }
    {
        SCOPED_TRACE("huge positive scores that differ little");
        Inputs in = with_keys([&](std::uint32_t token, std::uint16_t) { return token % 3 == 0 ? kOne : kSmall; });
        in.query.assign(in.query.size(), 0.0f);
        for (std::size_t i = 0; i < in.query.size(); i += s.head_dim) in.query[i] = 20000;
        expect_right(in, run(stage, in));
    }
}

TEST_F(AttendDenseTest, GivesTheSameBitsTwice) {
    for (const std::uint32_t n_splits : {1u, 16u}) {
        const Shape s{4103, 64, 3, KvType::kF16, n_splits};
        const AttendDense stage(device(), s.config());
        const Inputs in = make_inputs(s);
        const Outputs first = run(stage, in);
        const Outputs second = run(stage, in);
        EXPECT_EQ(std::memcmp(first.attended.data(), second.attended.data(), first.attended.size() * 4), 0);
        EXPECT_EQ(first.act, second.act);
    }
}

TEST_F(AttendDenseTest, DoesNothingWhenStopped) {
    const Shape s{199, 64, 4, KvType::kF16, 3};
    const Inputs in = make_inputs(s);
    const Outputs out = run(AttendDense(device(), s.config()), in, true);
    for (const float value : out.attended) ASSERT_TRUE(std::isnan(value));
    for (const std::uint32_t word : out.act) ASSERT_EQ(word, ~0u);
    for (const std::uint32_t counter : out.counters) ASSERT_EQ(counter, 0u);
}

TEST_F(AttendDenseTest, RefusesWhatItCannotQuantize) {
    AttendDense::Config config = Shape{199, 80, 1}.config();
    config.quantize = true;
    EXPECT_THROW(AttendDense(device(), config), Error);
}

}  // namespace
}  // namespace winnow::test
