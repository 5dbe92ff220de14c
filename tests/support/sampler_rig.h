// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/step/sample_token.h"
#include "shaders/common/interface.h"
#include "tests/reference/sample_token.h"
#include "tests/support/guarded_buffer.h"

namespace winnow::test {

/// Everything that decides the tokens of an answer when each step sees the same logits.
struct SampleInput {
    std::vector<float> logits;
    SamplingOptions options;
    std::vector<std::int32_t> recent;  ///< oldest first
    reference::StopRule stop{{}, 1u << 30, 1u << 30};
    reference::StepCounters at;
};

/// The sampler with its buffers.
class SamplerRig {
public:
    explicit SamplerRig(vk::Device& device) : device_(&device), sample_token_(device) {}

    struct Result {
        StepState state{};
        std::vector<std::uint32_t> ring;  ///< [0]: tokens of the answer so far, then WINNOW_TOKEN_RING of them
        /// The last n tokens, oldest first.
        std::vector<std::uint32_t> last(std::size_t n) const;
    };
    /// Runs n_steps (of which at most n_limit do something) with maxima of groups of `group` logits.
    Result run(const SampleInput& in, std::uint32_t n_steps, std::uint32_t group = 64) const;

private:
    vk::Device* device_;
    SampleToken sample_token_;
};

/// The state that a decode loop would upload for this input.
StepState state_of(const SampleInput& in);

/// Expects that each of n_steps tokens is what the reference draws, or may draw with sums off by `slack`, and that the
/// state afterwards is the reference's.
void expect_tokens(const SamplerRig& rig, const SampleInput& in, std::uint32_t n_steps, double slack = 1e-6,
                   std::uint32_t group = 64);

}  // namespace winnow::test
