// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/step_buffers.h"

#include <gmock/gmock.h>

#include <numeric>
#include <set>

#include "runtime/dense/logits.h"
#include "runtime/step/sample_token.h"
#include "tests/support/gpu_fixture.h"

namespace winnow {
namespace {

using ::testing::Each;

class StepBuffersTest : public test::GpuTest {};

constexpr std::uint32_t kSplits = 7;

// Every size differs from every other, and few are powers of two.
ModelShape odd_shape() {
    ModelShape s;
    s.n_layers = 2;
    s.n_embd = 96;
    s.n_ff = 352;
    s.n_heads = 12;
    s.n_kv_heads = 3;
    s.head_dim = 24;
    s.n_vocab = 1009;
    return s;
}

std::vector<const vk::Buffer*> all(const StepBuffers& b) {
    return {&b.state,        &b.state_upload, &b.x,           &b.act_embd, &b.query,    &b.attended,
            &b.act_attended, &b.act_ff,       &b.raw_product, &b.partials, &b.counters, &b.logits,
            &b.maxima,       &b.candidates,   &b.counts,      &b.ring};
}

TEST_F(StepBuffersTest, HoldWhatTheirCommentsSay) {
    const ModelShape s = odd_shape();
    const StepBuffers b(device(), s, kSplits);
    EXPECT_EQ(b.state.bytes(), sizeof(StepState));
    EXPECT_EQ(b.state_upload.bytes(), sizeof(StepState));
    EXPECT_EQ(b.x.bytes(), 96u * 4);
    EXPECT_EQ(b.raw_product.bytes(), 96u * 4);
    EXPECT_EQ(b.query.bytes(), 12u * 24 * 4);
    EXPECT_EQ(b.attended.bytes(), 12u * 24 * 4);
    // Five words of 16 bytes for each 32 values.
    EXPECT_EQ(b.act_embd.bytes(), 3u * 80);
    EXPECT_EQ(b.act_attended.bytes(), 9u * 80);
    EXPECT_EQ(b.act_ff.bytes(), 11u * 80);
    EXPECT_EQ(b.partials.bytes(), 3u * kSplits * (4 * 24 + 8) * 4);  // kv heads, splits, outputs and (m, d) of 4 heads
    EXPECT_EQ(b.logits.bytes(), 1009u * 4);
    EXPECT_EQ(b.ring.bytes(), 4u + 4 * WINNOW_TOKEN_RING);
    EXPECT_GE(b.counters.bytes(), (3u + 1) * 4);  // one per kv head, one for the norms
}

// Sizes that the stages decide: what they index must be there.
TEST_F(StepBuffersTest, SufficeForTheSamplingStages) {
    for (const std::uint32_t n_vocab : {1u, 31u, 320u, 1009u, 49152u}) {
        ModelShape s = odd_shape();
        s.n_vocab = n_vocab;
        const StepBuffers b(device(), s, kSplits);
        EXPECT_GE(b.maxima.bytes(), Logits(device(), {s.n_embd, n_vocab, WeightType::kF32}).n_maxima() * 4u) << n_vocab;
        EXPECT_GE(b.candidates.bytes(), (n_vocab + SampleToken::kMaxGroups) * std::uint64_t{8}) << n_vocab;
        EXPECT_GE(b.counts.bytes(), SampleToken::kMaxGroups * 4u) << n_vocab;
    }
}

TEST_F(StepBuffersTest, TakeWhatWasPlannedToTheByte) {
    for (const std::uint32_t n_splits : {1u, kSplits, 64u}) {
        const std::uint64_t bytes_before = device().allocated_bytes();
        const std::uint64_t n_before = device().n_allocations();
        const StepBuffers b(device(), odd_shape(), n_splits);
        const std::vector<const vk::Buffer*> buffers = all(b);
        std::uint64_t sum = 0;
        std::set<std::string> names;
        for (const vk::Buffer* buffer : buffers) {
            ASSERT_TRUE(*buffer);
            sum += buffer->bytes();
            names.insert(buffer->name());
        }
        EXPECT_EQ(sum, StepBuffers::bytes_needed(odd_shape(), n_splits));
        EXPECT_EQ(b.bytes(), sum);
        EXPECT_EQ(names.size(), buffers.size()) << "two buffers of one name";
        EXPECT_EQ(device().n_allocations() - n_before, buffers.size());
        EXPECT_GE(device().allocated_bytes() - bytes_before, sum);
    }
    const std::size_t n_listed = all({device(), odd_shape(), 1}).size();
    EXPECT_EQ(sizeof(StepBuffers), n_listed * sizeof(vk::Buffer)) << "all() lacks a buffer";
}

TEST_F(StepBuffersTest, OnlySplitsScalePartials) {
    const ModelShape s = odd_shape();
    const auto bytes = [&](std::uint32_t n) { return StepBuffers::bytes_needed(s, n); };
    EXPECT_EQ(bytes(8) - bytes(7), 3u * (4 * 24 + 8) * 4);
    EXPECT_EQ(bytes(1u << 24) - bytes(0), (std::uint64_t{1} << 24) * 3 * (4 * 24 + 8) * 4);  // beyond 32 bits
}

TEST_F(StepBuffersTest, TheLargestVocabularyDoesNotOverflow) {
    ModelShape s = odd_shape();
    const std::uint64_t small = StepBuffers::bytes_needed(s, 1);
    s.n_vocab = 1u << 30;
    // Logits and candidates alone are 12 bytes of each entry.
    EXPECT_GE(StepBuffers::bytes_needed(s, 1), small + 12 * ((std::uint64_t{1} << 30) - 1009));
}

TEST_F(StepBuffersTest, TheHostReachesItsOwn) {
    const StepBuffers b(device(), odd_shape(), kSplits);
    ASSERT_NE(b.state_upload.mapped(), nullptr);
    ASSERT_NE(b.ring.mapped(), nullptr);
    auto* state = b.state_upload.mapped_as<StepState>();
    *state = make_step_state({}, {});
    EXPECT_EQ(download<StepState>(b.state_upload).at(0).top_k, SamplingOptions{}.top_k);
}

TEST(StepState, CarriesOptions) {
    SamplingOptions o;
    o.temperature = 0.5f;
    o.top_k = 12;
    o.top_p = 0.75f;
    o.min_p = 0.125f;
    o.repeat_penalty = 1.5f;
    o.repeat_last_n = 33;
    o.seed = 0x0123456789abcdefull;
    const StepState s = make_step_state(o, {7, 2, 999});
    EXPECT_EQ(s.temperature, 0.5f);
    EXPECT_EQ(s.top_k, 12u);
    EXPECT_EQ(s.top_p, 0.75f);
    EXPECT_EQ(s.min_p, 0.125f);
    EXPECT_EQ(s.repeat_penalty, 1.5f);
    EXPECT_EQ(s.repeat_last_n, 33u);
    EXPECT_EQ(s.seed_low, 0x89abcdefu);
    EXPECT_EQ(s.seed_high, 0x01234567u);
    EXPECT_EQ(s.n_eog, 3u);
    EXPECT_EQ(s.eog[0], 7u);
    EXPECT_EQ(s.eog[2], 999u);
    EXPECT_EQ(s.eog[3], 0u);
    // A conversation begins with nothing.
    EXPECT_EQ(s.position | s.n_generated | s.stopped | s.rng_counter | s.n_recent, 0u);
    EXPECT_THAT(s.recent, Each(0u));
}

TEST(StepState, StaysWithinItsArrays) {
    SamplingOptions o;
    std::vector<std::int32_t> eog(WINNOW_MAX_EOG + 5);
    std::iota(eog.begin(), eog.end(), 100);
    for (const std::uint32_t n : {0u, WINNOW_MAX_RECENT - 1u, 0u + WINNOW_MAX_RECENT, WINNOW_MAX_RECENT + 1u, ~0u}) {
        o.repeat_last_n = n;
        const StepState s = make_step_state(o, eog);
        EXPECT_EQ(s.repeat_last_n, std::min<std::uint32_t>(n, WINNOW_MAX_RECENT));
        EXPECT_EQ(s.n_eog, 0u + WINNOW_MAX_EOG);
        EXPECT_EQ(s.eog[WINNOW_MAX_EOG - 1], 100u + WINNOW_MAX_EOG - 1);
        EXPECT_THAT(s.recent, Each(0u));
    }
}

}  // namespace
}  // namespace winnow
