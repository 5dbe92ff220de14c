// SPDX-License-Identifier: Apache-2.0
#include "tests/support/sampler_rig.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/kv/step_buffers.h"
#include "tests/reference/logits.h"
#include "tests/support/gpu_fixture.h"

namespace winnow::test {

std::vector<std::uint32_t> SamplerRig::Result::last(std::size_t n) const {
    std::vector<std::uint32_t> tokens;
    for (std::size_t i = ring[0] - n; i < ring[0]; ++i) tokens.push_back(ring[1 + i % WINNOW_TOKEN_RING]);
    return tokens;
}

StepState state_of(const SampleInput& in) {
    StepState s = make_step_state(in.options, in.stop.eog);
    s.position = in.at.position;
    s.n_generated = in.at.n_generated;
    s.rng_counter = in.at.rng_counter;
    s.stopped = in.at.stopped ? 1 : 0;
    s.n_limit = in.stop.n_limit;
    s.n_capacity = in.stop.n_capacity;
    s.n_recent = static_cast<std::uint32_t>(in.recent.size());
    for (std::size_t i = 0; i < in.recent.size(); ++i)
        s.recent[i % WINNOW_MAX_RECENT] = static_cast<std::uint32_t>(in.recent[i]);
    return s;
}

SamplerRig::Result SamplerRig::run(const SampleInput& in, std::uint32_t n_steps, std::uint32_t group) const {
    const auto n_vocab = static_cast<std::uint32_t>(in.logits.size());
    const std::vector<float> maxima = reference::group_maxima(in.logits, group);
    const StepState before = state_of(in);
    const std::vector<std::uint32_t> ring_before(1 + WINNOW_TOKEN_RING, 0);
    const vk::Buffer logits = make_buffer(*device_, std::span<const float>(in.logits));
    const vk::Buffer maxima_buffer = make_buffer(*device_, std::span<const float>(maxima));
    const vk::Buffer counter = make_buffer(*device_, std::span<const std::uint32_t>(ring_before).first(4));
    const GuardedBuffer state(*device_, "state", std::as_bytes(std::span<const StepState>(&before, 1)));
    const GuardedBuffer candidates(*device_, "candidates", (n_vocab + SampleToken::kMaxGroups) * 8);
    const GuardedBuffer counts(*device_, "counts", SampleToken::kMaxGroups * 4);
    const GuardedBuffer ring(*device_, "ring", std::as_bytes(std::span(ring_before)));
    const SamplePush push{n_vocab, static_cast<std::uint32_t>(maxima.size()), group};
    vk::run_once(*device_, [&](vk::Recorder& recorder) {
        for (std::uint32_t step = 0; step < n_steps; ++step) {
            sample_token_.record(
                recorder,
                {state.range(), logits, maxima_buffer, candidates.range(), counts.range(), counter, ring.range()},
                push);
            recorder.barrier();
        }
    });
    Result result;
    result.state = state.contents<StepState>().at(0);
    result.ring = ring.contents<std::uint32_t>();
    candidates.bytes(), counts.bytes();  // their canaries
    EXPECT_EQ(vk::read_back_as<std::uint32_t>(*device_, counter), std::vector<std::uint32_t>(4, 0));
    return result;
}

void expect_tokens(const SamplerRig& rig, const SampleInput& in, std::uint32_t n_steps, double slack,
                   std::uint32_t group) {
    const SamplerRig::Result result = rig.run(in, n_steps, group);
    SampleInput at = in;
    std::uint32_t token = 0;
    for (std::uint32_t step = 0; step < n_steps && !at.at.stopped; ++step) {
        token = result.ring[1 + at.at.n_generated % WINNOW_TOKEN_RING];
        ASSERT_LT(token, in.logits.size()) << "step " << step;
        const std::uint32_t expected = reference::sample_token(at.logits, at.options, at.recent, at.at.rng_counter);
        if (token != expected) {
            ASSERT_TRUE(reference::may_sample(at.logits, at.options, at.recent, at.at.rng_counter, token, slack))
                << "step " << step << ": token " << token << ", expected " << expected;
        }
        at.recent.push_back(static_cast<std::int32_t>(token));
        at.at = reference::advance(at.at, token, at.stop);
    }
    const StepState& s = result.state;
    EXPECT_EQ(result.ring[0], at.at.n_generated);
    EXPECT_EQ(s.n_generated, at.at.n_generated);
    EXPECT_EQ(s.position, at.at.position);
    EXPECT_EQ(s.rng_counter, at.at.rng_counter);
    EXPECT_EQ(s.stopped != 0, at.at.stopped);
    EXPECT_EQ(s.n_recent, at.recent.size());
    if (at.at.n_generated != in.at.n_generated) {
        EXPECT_EQ(s.token, token);
    }
    for (std::size_t back = 1; back <= std::min<std::size_t>(at.recent.size(), WINNOW_MAX_RECENT); ++back) {
        const std::size_t i = at.recent.size() - back;
        ASSERT_EQ(s.recent[i % WINNOW_MAX_RECENT], static_cast<std::uint32_t>(at.recent[i])) << "recent " << i;
    }
}

}  // namespace winnow::test
