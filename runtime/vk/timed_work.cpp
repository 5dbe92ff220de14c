// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/timed_work.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <utility>

#include "runtime/vk/device.h"
#include "runtime/vk/pipeline.h"
#include "runtime/vk/shader_registry.h"

namespace winnow::vk {
namespace {

using Clock = std::chrono::steady_clock;

// What raises a GPU's clocks. After seconds without work an H200 runs for a third of a second at a third of its speed.
constexpr double kWarmMicroseconds = 60e3, kWakeMicroseconds = 600e3;
constexpr std::chrono::seconds kAsleepAfter{1};
// Of any TimedWork: when it ended, and how long there has been some without such a pause.
std::atomic<Clock::duration::rep> last_work{0};
std::atomic<double> worked_microseconds{0};
constexpr int kCopySamples = 5;
constexpr std::uint64_t kCopyBytes = 512ull << 20;  // of each buffer
constexpr std::uint64_t kSoftwareCopyBytes = 32ull << 20;

}  // namespace

TimedWork::TimedWork(Device& device, std::string name, const std::function<void(Recorder&)>& record)
    : device_(device),
      recorder_(device, std::move(name), Recorder::Reuse::kReplay),
      timer_(device, 2),
      timeline_(device) {
    recorder_.begin();
    recorder_.full_barrier();
    recorder_.timestamp(&timer_, "begin");
    record(recorder_);
    recorder_.timestamp(&timer_, "end");
    recorder_.end();
}

void TimedWork::warm_up() {
    for (double total = 0; total < kWarmMicroseconds || worked_microseconds < kWakeMicroseconds;) {
        const double microseconds = run();
        if (device_.is_cpu() || microseconds <= 0) return;
        total += microseconds;
    }
}

double TimedWork::run() {
    // A single short work does not wake the device: what counts is the sum since it slept.
    if (Clock::now().time_since_epoch() - Clock::duration(last_work) > kAsleepAfter) worked_microseconds = 0;
    timeline_.wait(timeline_.submit(recorder_));
    last_work = Clock::now().time_since_epoch().count();
    const double microseconds = timer_.total_microseconds();
    worked_microseconds = worked_microseconds + microseconds;
    return microseconds;
}

double measure_copy_bandwidth(Device& device) {
    const bool is_cpu = device.is_cpu();
    const std::uint64_t most =
        std::min({is_cpu ? kSoftwareCopyBytes : kCopyBytes, device.info().memory_bytes / 16,
                  device.limits().max_storage_buffer_range, device.limits().max_allocation_bytes});
    const std::uint64_t bytes = most / 16 * 16;
    const Buffer from(device, "copied_from", bytes, BufferUse::kDevice);
    const Buffer to(device, "copied_to", bytes, BufferUse::kDevice);
    run_once(device, [&](Recorder& recorder) { recorder.fill(from, 0x20102010); });

    // A shader and no copy command: some drivers' commands reach a third of the bandwidth.
    const std::array<std::uint32_t, 1> group{is_cpu ? 64u : 256u};
    const ComputePipeline copy(device, find_shader("copy_words"), 2, 4, group);
    TimedWork work(device, "copy_bandwidth", [&](Recorder& recorder) {
        recorder.dispatch(copy, {from, to}, static_cast<std::uint32_t>(bytes / 16), is_cpu ? 64 : 4096);
        recorder.barrier();
    });
    work.warm_up();
    double best = std::numeric_limits<double>::infinity();
    for (int sample = 0; sample < kCopySamples; ++sample) best = std::min(best, work.run());
    return best > 0 ? 2.0 * static_cast<double>(bytes) / (best * 1e-6) : 0;
}

}  // namespace winnow::vk
