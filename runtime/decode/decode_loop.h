// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "runtime/decode/decode_plan.h"
#include "runtime/vk/timeline.h"

namespace winnow {

/// Replays the recorded step. The host submits a few steps ahead and reads each token from the ring when its
/// ticket has passed; no step waits for the host.
class DecodeLoop {
public:
    /// @param steps_in_flight most steps queued ahead of the one being read; at least 1.
    DecodeLoop(vk::Device& device, const DecodePlan& plan, StepBuffers& buffers, std::uint32_t steps_in_flight);
    ~DecodeLoop();

    struct Start {
        std::uint32_t token = 0;      ///< last token of the prompt, not yet in the cache
        std::uint32_t position = 0;   ///< tokens in the cache
        std::uint32_t capacity = 0;   ///< of the cache
        std::uint32_t n_limit = 0;    ///< most tokens to generate
        std::uint32_t rng_counter = 0;
        std::span<const std::int32_t> recent;  ///< newest last; for the repetition penalty
    };
    /// Begins an answer: uploads the state. Earlier work has been waited for.
    void start(const StepState& options, const Start& at);

    /// The next token; nullopt after a stop token, the limit or a full cache. The stop token itself is returned.
    /// @throws Error(kDeviceLost).
    std::optional<std::int32_t> next();

    /// Submits nothing more and waits for what is queued. The cache holds the tokens that next() returned, but the last.
    void finish();

    /// After start(): runs one step with a timestamp after each stage. For benches.
    std::vector<vk::GpuTimer::Interval> time_step();

private:
    void submit();

    vk::Device& device_;
    const DecodePlan& plan_;
    StepBuffers& buffers_;
    vk::Timeline timeline_;
    vk::Recorder step_;
    vk::Recorder begin_;
    std::uint32_t steps_in_flight_;
    std::deque<vk::Ticket> in_flight_;
    std::uint32_t n_read_ = 0;
    std::uint32_t n_submitted_ = 0;
    std::uint32_t n_limit_ = 0;
    bool running_ = false;
};

}  // namespace winnow
