// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/decode_loop.h"

#include <algorithm>
#include <atomic>

#include "runtime/vk/device.h"

namespace winnow {

DecodeLoop::DecodeLoop(vk::Device& device, const DecodePlan& plan, StepBuffers& buffers,
                       std::uint32_t steps_in_flight)
    : device_(device),
      plan_(plan),
      buffers_(buffers),
      timeline_(device),
      step_(device, "decode_step", vk::Recorder::Reuse::kReplay),
      begin_(device, "decode_begin", vk::Recorder::Reuse::kReplay),
      steps_in_flight_(std::clamp<std::uint32_t>(steps_in_flight, 1, WINNOW_TOKEN_RING / 2)) {
    step_.begin();
    plan.record(step_);
    step_.end();
    begin_.begin();
    begin_.full_barrier();
    begin_.copy(buffers_.state_upload, buffers_.state);
    begin_.fill(buffers_.counters, 0);
    begin_.fill(buffers_.ring, 0);
    begin_.full_barrier();
    begin_.end();
}

DecodeLoop::~DecodeLoop() {
    try {
        finish();
    } catch (const Error&) {  // a lost device has nothing left to wait for
    }
}

void DecodeLoop::start(const StepState& options, const Start& at) {
    finish();
    StepState s = options;
    s.position = at.position;
    s.token = at.token;
    s.n_generated = 0;
    s.stopped = 0;
    s.n_limit = at.n_limit;
    s.n_capacity = at.capacity;
    s.rng_counter = at.rng_counter;
    const std::size_t n = std::min<std::size_t>(at.recent.size(), WINNOW_MAX_RECENT);
    s.n_recent = static_cast<std::uint32_t>(n);
    for (std::size_t i = 0; i < n; ++i)
        s.recent[i] = static_cast<std::uint32_t>(at.recent[at.recent.size() - n + i]);
    *buffers_.state_upload.mapped_as<StepState>() = s;
    timeline_.submit(begin_);
    n_read_ = n_submitted_ = 0;
    n_limit_ = at.n_limit;
    running_ = true;
}

void DecodeLoop::submit() {
    in_flight_.push_back(timeline_.submit(step_));
    ++n_submitted_;
}

std::optional<std::int32_t> DecodeLoop::next() {
    if (!running_) return std::nullopt;
    while (in_flight_.size() < steps_in_flight_ && n_submitted_ < n_limit_) submit();
    if (in_flight_.empty()) return std::nullopt;
    timeline_.wait(in_flight_.front());
    in_flight_.pop_front();
    const auto* ring = buffers_.ring.mapped_as<const volatile std::uint32_t>();
    if (ring[0] <= n_read_) {  // the step did nothing: an earlier one had stopped
        running_ = false;
        return std::nullopt;
    }
    const auto token = static_cast<std::int32_t>(ring[1 + n_read_ % WINNOW_TOKEN_RING]);
    ++n_read_;
    return token;
}

std::vector<vk::GpuTimer::Interval> DecodeLoop::time_step() {
    vk::GpuTimer timer(device_, plan_.n_dependent_dispatches() + 8);
    vk::Recorder recorder(device_, "timed_step");
    recorder.begin();
    plan_.record(recorder, &timer);
    recorder.end();
    timeline_.wait(timeline_.submit(recorder));
    return timer.intervals();
}

void DecodeLoop::finish() {
    timeline_.wait(timeline_.last_submitted());
    in_flight_.clear();
    running_ = false;
}

}  // namespace winnow
