// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
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
    struct Options {
        std::uint32_t steps_in_flight = 2;  ///< most steps queued ahead of the one being read; at least 1
        bool sparse = false;                ///< the plan has sparse layers
        std::uint32_t min_ctx = 0;          ///< steps with fewer tokens in the cache run dense
        std::uint32_t audit_every = 0;  ///< audit one of so many (layer, step) pairs, round robin; 1 = all, 0 = none
        bool replay = true;             ///< submit what was recorded once; else record each step anew, for comparison
    };
    DecodeLoop(vk::Device& device, const DecodePlan& plan, StepBuffers& buffers, const Options& options);
    ~DecodeLoop();

    struct Start {
        std::uint32_t token = 0;     ///< last token of the prompt, not yet in the cache
        std::uint32_t position = 0;  ///< tokens in the cache
        std::uint32_t capacity = 0;  ///< of the cache
        std::uint32_t n_limit = 0;   ///< most tokens to generate
        std::uint32_t rng_counter = 0;
        std::span<const std::int32_t> recent;  ///< newest last; for the repetition penalty
    };
    /// Begins an answer: uploads the state. Earlier work has been waited for.
    void start(const StepState& options, const Start& at);

    /// The next token; nullopt after a stop token, the limit or a full cache. The stop token itself is returned.
    /// @throws Error(kDeviceLost), or Error(kBadFile) when the logits are not finite.
    std::optional<std::int32_t> next();

    /// Whether the step whose token next() returned last was sparse, and which audit phase it had.
    bool last_was_sparse() const { return last_was_sparse_; }
    std::uint32_t last_audit_phase() const { return last_audit_phase_; }

    /// Submits nothing more and waits for what is queued. The cache holds the tokens that next() returned, but the
    /// last.
    void finish();

    /// After start(): runs one step with a timestamp after each stage. For benches.
    std::vector<vk::GpuTimer::Interval> time_step();

private:
    bool runs_sparse(std::uint32_t position) const;
    void submit();

    vk::Device& device_;
    const DecodePlan& plan_;
    StepBuffers& buffers_;
    vk::Timeline timeline_;
    Options options_;
    vk::Recorder dense_step_;
    std::vector<vk::Recorder> sparse_steps_;  ///< one per audit phase; those that audit nothing share the last
    std::uint32_t n_phases_ = 0;
    vk::Recorder begin_;
    std::uint32_t position_ = 0;  ///< of the next step to submit
    std::uint32_t n_phase_ = 0;   ///< rotates the audit phases, across answers
    struct InFlight {
        vk::Ticket ticket = 0;
        bool sparse = false;
        std::uint32_t phase = 0;
        std::unique_ptr<vk::Recorder> own;  ///< what is not replayed
    };
    std::deque<InFlight> in_flight_;
    std::uint32_t n_read_ = 0;
    std::uint32_t n_submitted_ = 0;
    std::uint32_t n_limit_ = 0;
    bool running_ = false;
    bool last_was_sparse_ = false;
    std::uint32_t last_audit_phase_ = 0;
};

}  // namespace winnow
