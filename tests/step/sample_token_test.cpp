// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/sample_token.h"

#include <algorithm>
#include <cmath>

#include "tests/support/gpu_fixture.h"
#include "tests/support/random.h"
#include "tests/support/sampler_rig.h"

namespace winnow::test {
namespace {

class SampleTokenTest : public GpuTest {
protected:
    // Filters off, temperature 1.
    static SampleInput input(std::vector<float> logits) {
        SampleInput in;
        in.logits = std::move(logits);
        in.options = {};
        in.options.temperature = 1;
        in.options.top_k = 0;
        in.options.top_p = 1;
        in.options.min_p = 0;
        in.options.seed = 0x123456789abcdef0u;
        return in;
    }
    static SampleInput random_input(std::size_t n_vocab, float deviation = 2) {
        ReplicableRng rng(n_vocab);
        return input(rng.normals(n_vocab, -1, deviation));
    }
};

// Random123's known answers (kat_vectors).
TEST(SamplerReferenceTest, PhiloxKnownAnswers) {
    using Pair = std::array<std::uint32_t, 2>;
    EXPECT_EQ(reference::philox_2x32({0, 0}, 0), (Pair{0xff1dae59, 0x6cd10df2}));
    EXPECT_EQ(reference::philox_2x32({0xffffffff, 0xffffffff}, 0xffffffff), (Pair{0x2c3f628b, 0xab4fd7ad}));
    EXPECT_EQ(reference::philox_2x32({0x243f6a88, 0x85a308d3}, 0x13198a2e), (Pair{0xdd7ce038, 0xf62a4c12}));
}

// Worked by hand: probabilities 0.4, 0.3, 0.2, 0.1 in the order of ids 2, 0, 3, 1.
TEST(SamplerReferenceTest, FiltersInOrder) {
    const std::vector<float> logits{std::log(0.3f), std::log(0.1f), std::log(0.4f), std::log(0.2f)};
    using Ids = std::vector<std::uint32_t>;
    SamplingOptions o{1, 0, 1, 0, 1, 64, 0};
    EXPECT_EQ(reference::keep(logits, o, {}).ids, (Ids{0, 1, 2, 3}));
    o.top_k = 3;
    EXPECT_EQ(reference::keep(logits, o, {}).ids, (Ids{0, 2, 3}));
    o.top_p = 0.77f;  // of 0.9: 0.4 + 0.3 reach 0.693; they would not reach 0.77 of 1
    EXPECT_EQ(reference::keep(logits, o, {}).ids, (Ids{0, 2}));
    o.min_p = 0.8f;  // of 0.4
    EXPECT_EQ(reference::keep(logits, o, {}).ids, (Ids{2}));
    o.min_p = 0.7f;
    o.temperature = 0.5f;  // after the filters: it changes weights only
    const reference::Kept kept = reference::keep(logits, o, {});
    EXPECT_EQ(kept.ids, (Ids{0, 2}));
    EXPECT_NEAR(kept.weights[0] / kept.weights[1], 0.5625, 1e-6);
    EXPECT_EQ(reference::pick(kept, 0.35), 0u);
    EXPECT_EQ(reference::pick(kept, 0.37), 2u);
    o = {1, 1, 1, 0, 1.5f, 64, 0};
    EXPECT_EQ(reference::keep(logits, o, {2, 2}).ids, (Ids{0}));  // ln 0.4 * 1.5 < ln 0.3
}

TEST_F(SampleTokenTest, GreedyTakesTheLargestThenTheLowestId) {
    const SamplerRig rig(device());
    for (const std::size_t n_vocab : {1, 2, 63, 64, 65, 1000, 50000}) {
        SampleInput in = random_input(n_vocab);
        in.options.temperature = 0;
        expect_tokens(rig, in, 2);
        // Ties far apart, of which the first is neither first nor last of a range.
        for (const std::size_t at : {n_vocab - 1, n_vocab / 2, n_vocab / 3, 5 * n_vocab / 6}) in.logits[at] = 40;
        EXPECT_EQ(rig.run(in, 1).last(1)[0], n_vocab / 3);
        std::fill(in.logits.begin(), in.logits.end(), -2.5f);
        EXPECT_EQ(rig.run(in, 1).last(1)[0], 0u);
    }
}

TEST_F(SampleTokenTest, EveryTopK) {
    const SamplerRig rig(device());
    SampleInput in = random_input(70);
    for (std::uint32_t k = 1; k <= 71; ++k) {
        in.options.top_k = k;
        in.at.rng_counter = 100 * k;
        expect_tokens(rig, in, 6, 1e-6, 1 + k % 3);  // groups so small that the threshold drops most
    }
}

TEST_F(SampleTokenTest, TiesAtTheEdgeOfTopKAreKept) {
    const SamplerRig rig(device());
    SampleInput in = input(std::vector<float>(200, 0.0f));
    in.logits[7] = 1;
    in.options.top_k = 2;
    expect_tokens(rig, in, 40, 1e-6, 8);
}

TEST_F(SampleTokenTest, FiltersAndTemperature) {
    const SamplerRig rig(device());
    struct Options {
        std::uint32_t top_k;
        float top_p, min_p, temperature;
    };
    for (const Options& o : {Options{0, 1, 0, 1},
                             {0, 0.9f, 0, 1},
                             {0, 0.5f, 0, 0.3f},
                             {0, 1e-6f, 0, 1},
                             {0, 1, 0.05f, 1},
                             {0, 1, 1, 2},
                             {40, 0.95f, 0.05f, 0.8f},
                             {40, 0.95f, 0.05f, 5},
                             {5, 0.6f, 0.3f, 1},
                             {3, 1, 0, 0.01f},
                             {100, 0.99f, 0, 1.5f}}) {
        for (const std::size_t n_vocab : {10, 300, 5000}) {
            SampleInput in = random_input(n_vocab);
            in.options.top_k = o.top_k;
            in.options.top_p = o.top_p;
            in.options.min_p = o.min_p;
            in.options.temperature = o.temperature;
            SCOPED_TRACE(::testing::Message() << n_vocab << " tokens, top-k " << o.top_k << " top-p " << o.top_p
                                              << " min-p " << o.min_p << " temperature " << o.temperature);
            expect_tokens(rig, in, 12, 1e-5);
        }
    }
}

TEST_F(SampleTokenTest, Penalties) {
    const SamplerRig rig(device());
    for (const float penalty : {1.3f, 0.7f, 1.0f}) {
        for (const std::uint32_t last_n : {0u, 1u, 16u, 1024u}) {
            for (const float temperature : {0.0f, 0.9f}) {
                SampleInput in = random_input(500);
                in.options.temperature = temperature;
                in.options.top_k = 20;
                in.options.repeat_penalty = penalty;
                in.options.repeat_last_n = last_n;
                ReplicableRng rng(9);
                for (int i = 0; i < 1000; ++i) in.recent.push_back(static_cast<std::int32_t>(rng.integer(0, 499)));
                SCOPED_TRACE(::testing::Message()
                             << "penalty " << penalty << " of " << last_n << " temperature " << temperature);
                expect_tokens(rig, in, 40, 1e-5, 4);  // the list of recent tokens wraps around
                in.recent.resize(3);
                expect_tokens(rig, in, 5, 1e-5, 4);
            }
        }
    }
}

// The largest vocabulary and the longest list: a range of a software driver has more ids than are marked at a time, and
// what looks for each id in the list exceeds the loop limit of llvmpipe (runtime/vk/quirks.h), so that the ends of
// ranges are lost.
TEST_F(SampleTokenTest, PenaltiesOfALargeVocabulary) {
    const SamplerRig rig(device());
    constexpr std::uint32_t kVocab = 262144, kRange = kVocab / 8;
    for (const float temperature : {0.0f, 0.8f}) {
        SampleInput in = random_input(kVocab, 0.1f);
        in.options.temperature = temperature;
        in.options.repeat_penalty = 1.5f;
        in.options.repeat_last_n = 1024;
        in.options.top_k = 30;
        ReplicableRng rng(10);
        for (int i = 0; i < 1016; ++i) in.recent.push_back(static_cast<std::int32_t>(rng.integer(0, kVocab - 1)));
        for (std::uint32_t r = 0; r < 8; ++r) {
            in.recent.push_back(static_cast<std::int32_t>(r * kRange + kRange / 2 + 1));
            in.logits[r * kRange + kRange / 2 + 1] =
                4 + 0.125f * static_cast<float>(r);  // the largest, until the penalty
            in.logits[(r + 1) * kRange - 1 - r] = 3 + 0.0625f * static_cast<float>(r);
        }
        expect_tokens(rig, in, 12, 1e-5);
    }
}

TEST_F(SampleTokenTest, StopsAfterEogLimitAndCapacity) {
    const SamplerRig rig(device());
    SampleInput in = random_input(40);
    in.at.rng_counter = 77;
    const std::vector<std::uint32_t> tokens = rig.run(in, 12).last(12);
    // Each stops in the middle; the surplus steps do nothing, which expect_tokens sees in the state.
    SampleInput eog = in;
    eog.stop.eog = {1000, static_cast<std::int32_t>(tokens[5]), -1};
    expect_tokens(rig, eog, 12);
    EXPECT_LE(rig.run(eog, 12).ring[0], 6u);
    SampleInput many = in;
    for (int i = 0; i < WINNOW_MAX_EOG - 1; ++i) many.stop.eog.push_back(5000 + i);
    many.stop.eog.push_back(static_cast<std::int32_t>(tokens[3]));
    expect_tokens(rig, many, 12);
    SampleInput limit = in;
    limit.stop.n_limit = 5;
    expect_tokens(rig, limit, 12);
    SampleInput capacity = in;
    capacity.at.position = 93;
    capacity.stop.n_capacity = 100;
    expect_tokens(rig, capacity, 12);
    EXPECT_EQ(rig.run(capacity, 12).ring[0], 7u);
    SampleInput stopped = in;
    stopped.at.stopped = true;
    const SamplerRig::Result result = rig.run(stopped, 1);
    EXPECT_EQ(result.ring, std::vector<std::uint32_t>(1 + WINNOW_TOKEN_RING, 0));
}

TEST_F(SampleTokenTest, RingAndRecentTokensWrap) {
    const SamplerRig rig(device());
    SampleInput in = random_input(30);
    in.at.n_generated = 250;
    in.recent.assign(1020, 3);
    expect_tokens(rig, in, 20);
}

TEST_F(SampleTokenTest, SeedsRepeat) {
    const SamplerRig rig(device());
    SampleInput in = random_input(2000);
    const auto first = rig.run(in, 100).last(100);
    EXPECT_EQ(rig.run(in, 100).last(100), first);
    in.options.seed ^= 1;
    EXPECT_NE(rig.run(in, 100).last(100), first);
    in.options.seed ^= 1 | std::uint64_t{1} << 63;
    EXPECT_NE(rig.run(in, 100).last(100), first);
    in.options.seed ^= std::uint64_t{1} << 63;
    in.at.rng_counter = 50;  // goes on where the fiftieth draw was
    const auto second = rig.run(in, 50).last(50);
    EXPECT_TRUE(std::equal(second.begin(), second.end(), first.begin() + 50));
}

// Nothing is filtered out beforehand: the last workgroup goes over the whole vocabulary.
TEST_F(SampleTokenTest, LargeFlatVocabularies) {
    const SamplerRig rig(device());
    for (const std::uint32_t n_vocab : {50000u, 262144u}) {
        // A lane adds n / 64 weights one by one; exp is off by 3 units in the last place or so.
        const double slack = (n_vocab / 64 + 20) * 0x1p-24;
        SampleInput flat = input(std::vector<float>(n_vocab, 1.25f));
        expect_tokens(rig, flat, 3, slack);
        SampleInput uneven = random_input(n_vocab, 0.1f);
        expect_tokens(rig, uneven, 2, slack);
        uneven.options.top_p = 0.9f;
        uneven.options.temperature = 0.7f;
        expect_tokens(rig, uneven, 1, slack);
        uneven.options.min_p = 0.7f;
        expect_tokens(rig, uneven, 1, slack);
        uneven.options.top_k = n_vocab / 3;
        expect_tokens(rig, uneven, 1, slack);
    }
}

// Tokens that a grammar or a model rules out by minus infinity are never drawn.
TEST_F(SampleTokenTest, MinusInfinityIsNeverDrawn) {
    const SamplerRig rig(device());
    SampleInput in = random_input(100);
    for (std::size_t i = 0; i < 100; i += 2) in.logits[i] = -INFINITY;
    for (const std::uint32_t token : rig.run(in, 50).last(50)) EXPECT_EQ(token % 2, 1u);
}

// NaN and infinity come from a damaged model: one of them is enough, wherever it stands and whatever the filters.
TEST_F(SampleTokenTest, SaysWhenLogitsAreNotFinite) {
    const SamplerRig rig(device());
    struct Options {
        float temperature, repeat_penalty, top_p;
        std::uint32_t top_k;
    };
    for (const Options& o :
         {Options{0, 1, 1, 0}, {0, 1.3f, 1, 0}, {1, 1, 1, 0}, {0.8f, 1.1f, 0.95f, 40}, {1, 1, 0.5f, 1}}) {
        SampleInput in = random_input(5000);
        in.options.temperature = o.temperature;
        in.options.repeat_penalty = o.repeat_penalty;
        in.options.top_p = o.top_p;
        in.options.top_k = o.top_k;
        in.recent = {1, 2, 3};
        const auto expect_refusal = [&](const SampleInput& bad, const char* what) {
            SCOPED_TRACE(::testing::Message() << what << ", temperature " << o.temperature << " top-k " << o.top_k);
            const SamplerRig::Result result = rig.run(bad, 3);
            EXPECT_EQ(result.ring[0], 1u);
            EXPECT_EQ(result.ring[1], WINNOW_NO_TOKEN);
            EXPECT_NE(result.state.stopped, 0u);
            EXPECT_EQ(result.state.position, bad.at.position);
        };
        for (const float value : {NAN, -NAN, INFINITY}) {
            for (const std::size_t at : {0u, 1234u, 4999u}) {
                SampleInput bad = in;
                bad.logits[at] = value;
                expect_refusal(bad, "one");
            }
            SampleInput bad = in;
            std::fill(bad.logits.begin(), bad.logits.end(), value);
            expect_refusal(bad, "all");
        }
        std::fill(in.logits.begin(), in.logits.end(), -INFINITY);
        expect_refusal(in, "nothing left");
    }
}

// 4096 draws over eight tokens: each is the reference's, and their frequencies are the probabilities (chi-square).
TEST_F(SampleTokenTest, FrequenciesAreProbabilities) {
    const SamplerRig rig(device());
    SampleInput in = input({0.3f, -1.0f, 1.2f, 0.0f, 2.0f, -0.4f, 1.0f, 0.9f});
    in.options.temperature = 0.9f;
    const reference::Kept kept = reference::keep(in.logits, in.options, {});
    double total = 0;
    for (const double w : kept.weights) total += w;
    std::vector<double> counts(8, 0.0);
    constexpr std::uint32_t kDraws = 4096;
    for (in.at.rng_counter = 0; in.at.rng_counter < kDraws; in.at.rng_counter += WINNOW_TOKEN_RING) {
        std::uint32_t counter = in.at.rng_counter;
        for (const std::uint32_t token : rig.run(in, WINNOW_TOKEN_RING).last(WINNOW_TOKEN_RING)) {
            ASSERT_LT(token, 8u);
            counts[token] += 1;
            EXPECT_TRUE(reference::may_sample(in.logits, in.options, {}, counter++, token, 1e-6));
        }
    }
    double chi_square = 0;
    for (std::size_t id = 0; id < 8; ++id) {
        const double expected = kDraws * kept.weights[id] / total;
        chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
    EXPECT_LT(chi_square, 29.9);  // 7 degrees of freedom, one in 10,000
}

}  // namespace
}  // namespace winnow::test
