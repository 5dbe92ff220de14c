// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/decode_loop.h"

#include <algorithm>
#include <atomic>

#include "runtime/decode/finite.h"
#include "runtime/vk/device.h"

namespace winnow {

DecodeLoop::DecodeLoop(vk::Device& device, const DecodePlan& plan, StepBuffers& buffers, const Options& options)
    : device_(device),
      plan_(plan),
      buffers_(buffers),
      timeline_(device),
      options_(options),
      dense_step_(device, "decode_step", vk::Recorder::Reuse::kReplay),
      begin_(device, "decode_begin", vk::Recorder::Reuse::kReplay) {
    options_.steps_in_flight = std::clamp<std::uint32_t>(options.steps_in_flight, 1, WINNOW_TOKEN_RING / 2);
    dense_step_.begin();
    plan.record(dense_step_, {});
    dense_step_.end();
    n_phases_ = options.sparse ? std::max(options.audit_every, 1u) : 0;
    const std::uint32_t n_recorded =
        std::min(n_phases_, plan.n_layers() + 1);  // phases beyond the layers audit nothing
    sparse_steps_.reserve(n_recorded);
    for (std::uint32_t phase = 0; phase < n_recorded; ++phase) {
        sparse_steps_.emplace_back(device, "sparse_step", vk::Recorder::Reuse::kReplay);
        sparse_steps_.back().begin();
        plan.record(sparse_steps_.back(), {true, options.audit_every, phase});
        sparse_steps_.back().end();
    }
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
    for (std::size_t i = 0; i < n; ++i) s.recent[i] = static_cast<std::uint32_t>(at.recent[at.recent.size() - n + i]);
    *buffers_.state_upload.mapped_as<StepState>() = s;
    timeline_.submit(begin_);
    n_read_ = n_submitted_ = 0;
    n_limit_ = at.n_limit;
    position_ = at.position;
    running_ = true;
}

bool DecodeLoop::runs_sparse(std::uint32_t position) const {
    return !sparse_steps_.empty() && position + 1 >= options_.min_ctx;
}

void DecodeLoop::submit() {
    InFlight step;
    step.sparse = runs_sparse(position_);
    if (step.sparse) step.phase = n_phase_++ % n_phases_;
    if (options_.replay) {
        step.ticket = timeline_.submit(
            step.sparse ? sparse_steps_[std::min<std::size_t>(step.phase, sparse_steps_.size() - 1)] : dense_step_);
    } else {
        step.own = std::make_unique<vk::Recorder>(device_, "decode_step");
        step.own->begin();
        plan_.record(*step.own, {step.sparse, step.sparse ? options_.audit_every : 0, step.phase});
        step.own->end();
        step.ticket = timeline_.submit(*step.own);
    }
    in_flight_.push_back(std::move(step));
    ++n_submitted_;
    ++position_;
}

std::optional<std::int32_t> DecodeLoop::next() {
    if (!running_) return std::nullopt;
    while (in_flight_.size() < options_.steps_in_flight && n_submitted_ < n_limit_) submit();
    if (in_flight_.empty()) return std::nullopt;
    const InFlight step = std::move(in_flight_.front());
    in_flight_.pop_front();
    timeline_.wait(step.ticket);
    const auto* ring = buffers_.ring.mapped_as<const volatile std::uint32_t>();
    if (ring[0] <= n_read_) {  // the step did nothing: an earlier one had stopped
        running_ = false;
        return std::nullopt;
    }
    const std::uint32_t token = ring[1 + n_read_ % WINNOW_TOKEN_RING];
    ++n_read_;
    if (token == WINNOW_NO_TOKEN) {
        running_ = false;
        throw_not_finite();
    }
    last_was_sparse_ = step.sparse;
    last_audit_phase_ = step.phase;
    return static_cast<std::int32_t>(token);
}

std::vector<vk::GpuTimer::Interval> DecodeLoop::time_step() {
    vk::GpuTimer timer(device_, plan_.n_dependent_dispatches(!sparse_steps_.empty()) + 8);
    vk::Recorder recorder(device_, "timed_step");
    recorder.begin();
    plan_.record(recorder, {runs_sparse(position_), 0, 0}, &timer);
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
