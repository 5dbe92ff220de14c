// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/decode_loop.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "runtime/decode/prefill.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/tiny_model.h"

namespace winnow::test {
namespace {

using Tokens = std::vector<std::int32_t>;

SparsePolicy dense_policy(const ModelShape& shape) {
    return make_preset("off", std::vector<bool>(shape.n_layers, false));
}

KvConfig kv_config(const ModelShape& s, std::uint32_t n_ctx, std::uint32_t n_chunk) {
    KvConfig c;
    c.n_layers = s.n_layers;
    c.n_kv_heads = s.n_kv_heads;
    c.head_dim = s.head_dim;
    c.capacity = n_ctx;
    c.max_chunk = n_chunk;
    c.roles = model_roles(s);
    return c;
}

/// All that decodes a tiny model on the shared device.
struct Rig {
    explicit Rig(vk::Device& device_to_use, Flavour flavour, std::uint32_t context = 128,
                 std::uint32_t n_steps_in_flight = 2, WeightType query = WeightType::kQ4_0)
        : device(device_to_use),
          model(flavour, 0, WeightType::kQ8_0, query),
          source(model.source()),
          n_ctx(context),
          n_splits(AttendDense::default_splits(device, source.shape.n_kv_heads, n_ctx, 64)),
          weights(upload_weights(device, source.shape, source.tensors, n_ctx)),
          cache(device, kv_config(source.shape, n_ctx, 16)),
          buffers(device, source.shape, n_splits),
          prefill_buffers(device, source.shape, 16),
          prefill(device, source.shape, weights, cache, prefill_buffers, 16),
          attention(device,
                    {source.shape.n_layers, source.shape.n_heads, source.shape.n_kv_heads, source.shape.head_dim},
                    cache,
                    {buffers.state, buffers.query, buffers.partials, buffers.counters, buffers.attended,
                     buffers.act_attended},
                    n_splits, dense_policy(source.shape)),
          plan(device, source.shape, weights, cache, buffers, attention),
          loop(device, plan, buffers, {n_steps_in_flight, false, 0, 0}) {}

    /// Puts all but the last token into the cache and starts the loop with it.
    void start(const Tokens& prompt, const SamplingOptions& sampling, std::uint32_t n_limit,
               const Tokens& stop_tokens = {}) {
        prefill.run(std::span(prompt).first(prompt.size() - 1), 0, {}, {});
        begin(prompt, sampling, n_limit, stop_tokens);
    }
    /// The same for tokens that are in the cache already, but the last.
    void begin(const Tokens& tokens, const SamplingOptions& sampling, std::uint32_t n_limit,
               const Tokens& stop_tokens = {}) {
        DecodeLoop::Start at;
        at.token = static_cast<std::uint32_t>(tokens.back());
        at.position = static_cast<std::uint32_t>(tokens.size() - 1);
        at.capacity = n_ctx;
        at.n_limit = n_limit;
        at.rng_counter = at.position;
        at.recent = tokens;
        loop.start(make_step_state(sampling, stop_tokens), at);
    }
    Tokens rest() {
        Tokens tokens;
        while (const auto token = loop.next()) tokens.push_back(*token);
        return tokens;
    }
    Tokens generate(const Tokens& prompt, const SamplingOptions& sampling, std::uint32_t n_limit,
                    const Tokens& stop_tokens = {}) {
        start(prompt, sampling, n_limit, stop_tokens);
        return rest();
    }
    StepState state() const { return vk::read_back_as<StepState>(device, buffers.state).front(); }

    vk::Device& device;
    TinyModel model;
    ModelSource source;
    std::uint32_t n_ctx, n_splits;
    ModelWeights weights;
    KvCache cache;
    StepBuffers buffers;
    PrefillBuffers prefill_buffers;
    Prefill prefill;
    AttentionPipeline attention;
    DecodePlan plan;
    DecodeLoop loop;
};

SamplingOptions greedy() {
    SamplingOptions s;
    s.temperature = 0;
    return s;
}

/// Everything that a step keeps from one to the next decides what is drawn: generator, penalty, position.
SamplingOptions lively(std::uint64_t seed = 7) {
    SamplingOptions s;
    s.temperature = 1.5f;
    s.top_k = 100;
    s.repeat_penalty = 1.3f;
    s.repeat_last_n = 16;
    s.seed = seed;
    return s;
}

class DecodeLoopTest : public GpuTest {};

TEST_F(DecodeLoopTest, ReplaysEqualSingleStarts) {
    for (const Flavour flavour : {Flavour::kLlama, Flavour::kQwen2, Flavour::kGemma3}) {
        SCOPED_TRACE(flavour_name(flavour));
        Rig rig(device(), flavour);
        Tokens history = random_tokens(20);
        const Tokens replayed = rig.generate(history, lively(), 40);
        ASSERT_EQ(replayed.size(), 40u);
        EXPECT_GT(std::set<std::int32_t>(replayed.begin(), replayed.end()).size(), 20u) << "the test says little";

        Tokens single;
        rig.prefill.run(std::span(history).first(19), 0, {}, {});
        for (int i = 0; i < 40; ++i) {
            rig.begin(history, lively(), 1);
            const Tokens one = rig.rest();
            ASSERT_EQ(one.size(), 1u);
            single.push_back(one.front());
            history.push_back(one.front());
        }
        EXPECT_EQ(single, replayed);
    }
}

TEST_F(DecodeLoopTest, StepsInFlightChangeNothing) {
    const Tokens prompt = random_tokens(20);
    Tokens first;
    for (const std::uint32_t n : {1u, 2u, 3u, 4u, 1000u}) {
        Rig rig(device(), Flavour::kGemma3, 128, n);
        const Tokens tokens = rig.generate(prompt, lively(), 50);
        if (first.empty()) first = tokens;
        EXPECT_EQ(tokens, first) << n << " steps in flight";
    }
    EXPECT_EQ(first.size(), 50u);
}

TEST_F(DecodeLoopTest, SameSeedSameTokens) {
    Rig rig(device(), Flavour::kLlama);
    const Tokens prompt = random_tokens(20);
    const Tokens first = rig.generate(prompt, lively(7), 50);
    EXPECT_EQ(rig.generate(prompt, lively(7), 50), first);
    EXPECT_NE(rig.generate(prompt, lively(8), 50), first);
    EXPECT_EQ(rig.generate(prompt, lively(7), 50), first);
    EXPECT_EQ(rig.generate(prompt, greedy(), 50), rig.generate(prompt, greedy(), 50));
}

TEST_F(DecodeLoopTest, StopsAfterAStopToken) {
    const Tokens prompt = random_tokens(20);
    for (const std::uint32_t n : {1u, 4u}) {
        SCOPED_TRACE(fmt::format("{} steps in flight", n));
        Rig rig(device(), Flavour::kLlama, 128, n);
        const Tokens all = rig.generate(prompt, lively(), 50);
        ASSERT_EQ(all.size(), 50u);
        const auto stop = std::find(all.begin(), all.end(), all[10]);
        const Tokens expected(all.begin(), stop + 1);

        // Surplus steps must leave the cache alone: every row after the last token's keeps its mark.
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            recorder.fill(rig.cache.keys(0), 0xffffffff);
            recorder.fill(rig.cache.values(0), 0xffffffff);
        });
        EXPECT_EQ(rig.generate(prompt, lively(), 50, {all[10]}), expected);
        EXPECT_EQ(rig.loop.next(), std::nullopt);
        rig.loop.finish();
        const StepState state = rig.state();
        EXPECT_NE(state.stopped, 0u);
        EXPECT_EQ(state.n_generated, expected.size());
        EXPECT_EQ(state.position, prompt.size() - 1 + expected.size());
        const auto keys = download<std::uint16_t>(rig.cache.keys(0));
        const auto values = download<std::uint16_t>(rig.cache.values(0));
        const std::uint32_t dim = rig.source.shape.head_dim;
        for (std::uint32_t h = 0; h < rig.source.shape.n_kv_heads; ++h) {
            for (std::uint32_t token = 0; token < rig.n_ctx; ++token) {
                const std::size_t row = rig.cache.layout().head(0, h).first_block * 64 + token;
                const bool written = token < state.position;
                EXPECT_EQ(keys[row * dim] != 0xffff, written) << "head " << h << " token " << token;
                EXPECT_EQ(values[row * dim] != 0xffff, written) << "head " << h << " token " << token;
            }
        }
    }
}

TEST_F(DecodeLoopTest, StopsAtTheLimitAndAtTheEndOfTheCache) {
    const Tokens prompt = random_tokens(60);
    Rig rig(device(), Flavour::kLlama, 64, 4);
    EXPECT_EQ(rig.generate(prompt, greedy(), 3).size(), 3u);
    EXPECT_EQ(rig.loop.next(), std::nullopt);
    // Positions 59 to 63 are free; each gives a token.
    EXPECT_EQ(rig.generate(prompt, greedy(), 1000).size(), 5u);
    rig.loop.finish();
    EXPECT_EQ(rig.state().position, 64u);
}

TEST_F(DecodeLoopTest, ATokenCanBeReadLate) {
    // More tokens than the ring holds, and a host that stops reading in the middle of an answer.
    Rig rig(device(), Flavour::kGemma3, 512, 4);
    const Tokens prompt = random_tokens(20);
    const Tokens all = rig.generate(prompt, lively(), WINNOW_TOKEN_RING + 50);
    ASSERT_EQ(all.size(), WINNOW_TOKEN_RING + 50u);
    const StepState state = rig.state();
    for (std::uint32_t i = 0; i < all.size(); ++i)
        ASSERT_EQ(state.recent[prompt.size() + i], static_cast<std::uint32_t>(all[i])) << i;

    rig.start(prompt, lively(), 100);
    for (int i = 0; i < 10; ++i) ASSERT_EQ(rig.loop.next(), std::optional(all[static_cast<std::size_t>(i)]));
    rig.loop.finish();
    EXPECT_EQ(rig.loop.next(), std::nullopt);
    EXPECT_EQ(rig.generate(prompt, lively(), 50), Tokens(all.begin(), all.begin() + 50));
}

TEST_F(DecodeLoopTest, AllocatesNothing) {
    Rig rig(device(), Flavour::kGemma3, 256, 3);
    const std::uint64_t n_before = device().n_allocations();
    const std::uint64_t bytes_before = device().allocated_bytes();
    EXPECT_EQ(rig.generate(random_tokens(100), lively(), 50).size(), 50u);
    EXPECT_EQ(rig.generate(random_tokens(10, 1), greedy(), 10).size(), 10u);
    EXPECT_EQ(device().n_allocations(), n_before);
    EXPECT_EQ(device().allocated_bytes(), bytes_before);
}

TEST_F(DecodeLoopTest, TimesEveryStage) {
    Rig rig(device(), Flavour::kGemma3);
    const Tokens prompt = random_tokens(20);
    const Tokens expected = rig.generate(prompt, greedy(), 2);
    rig.start(prompt, greedy(), 2);
    std::vector<std::string> labels;
    for (const auto& interval : rig.loop.time_step()) labels.push_back(interval.label);
    EXPECT_THAT(labels, ::testing::IsSupersetOf(
                            {"embed", "qkv", "attend_dense", "output", "gate_up", "down", "logits", "sample_token"}));
    EXPECT_EQ(rig.generate(prompt, greedy(), 2), expected);
}

TEST_F(DecodeLoopTest, CountsItsDependentDispatches) {
    Rig rig(device(), Flavour::kLlama);
    vk::Recorder recorder(device(), "step");
    recorder.begin();
    rig.plan.record(recorder, {});
    recorder.end();
    EXPECT_EQ(rig.plan.n_dependent_dispatches(false), 3 + 5 * rig.source.shape.n_layers);
    EXPECT_EQ(recorder.n_dispatches(), rig.plan.n_dependent_dispatches(false));  // nothing is split on so small a model
    EXPECT_EQ(recorder.n_barriers(), rig.plan.n_dependent_dispatches(false) + 2);
}

TEST_F(DecodeLoopTest, RowRangesRunBesideEachOther) {
    DeviceOptions options;
    options.max_matrix_bytes = 26000;
    const auto limited = vk::Device::open(options);
    Rig rig(*limited, Flavour::kLlama, 128, 2, WeightType::kF16);
    vk::Recorder recorder(*limited, "step");
    recorder.begin();
    rig.plan.record(recorder, {});
    recorder.end();
    const std::uint32_t n_dependent = 3 + 5 * rig.source.shape.n_layers;
    EXPECT_EQ(rig.plan.n_dependent_dispatches(false), n_dependent);
    EXPECT_EQ(recorder.n_dispatches(), n_dependent + 3 * 3 + 2);  // gate and up in 4, two layers' Q, K, V in 2 ranges
    EXPECT_EQ(recorder.n_barriers(), n_dependent + 2);
}

}  // namespace
}  // namespace winnow::test
