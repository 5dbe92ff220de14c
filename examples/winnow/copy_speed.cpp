// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/copy_speed.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "runtime/vk/device.h"
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/vk/shader_registry.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/timer.h"

namespace winnow::program {
namespace {

constexpr std::uint64_t kMostBytes = 512ull << 20;  // of each buffer: far more than any cache
constexpr std::uint64_t kSoftwareBytes = 32ull << 20;
constexpr std::uint32_t kSamples = 5;
constexpr double kWarmMicroseconds = 60e3;  // an idle GPU takes so long to raise its clocks

}  // namespace

double measure_copy_speed(const std::string& select) {
    DeviceOptions options;
    options.select = select;
    const std::unique_ptr<vk::Device> device = vk::Device::open(options);
    const bool is_cpu = device->is_cpu();
    const std::uint64_t most = std::min(
        {is_cpu ? kSoftwareBytes : kMostBytes, device->info().memory_bytes / 16,
         device->limits().max_storage_buffer_range, device->limits().max_allocation_bytes});
    const std::uint64_t bytes = most / 16 * 16;
    const vk::Buffer from(*device, "copied_from", bytes, vk::BufferUse::kDevice);
    const vk::Buffer to(*device, "copied_to", bytes, vk::BufferUse::kDevice);
    vk::run_once(*device, [&](vk::Recorder& recorder) { recorder.fill(from, 0x20102010); });

    // A shader and no copy command: some drivers' commands reach a third of the bandwidth.
    const std::array<std::uint32_t, 1> spec{is_cpu ? 64u : 256u};
    const vk::ComputePipeline copy(*device, vk::find_shader("copy_words"), 2, 4, spec);
    vk::Recorder recorder(*device, "copy_speed", vk::Recorder::Reuse::kReplay);
    vk::GpuTimer timer(*device, 2);
    vk::Timeline timeline(*device);
    recorder.begin();
    recorder.full_barrier();
    recorder.timestamp(&timer, "begin");
    recorder.dispatch(copy, {from, to}, static_cast<std::uint32_t>(bytes / 16), is_cpu ? 64 : 4096);
    recorder.barrier();
    recorder.timestamp(&timer, "copy");
    recorder.end();
    double best = std::numeric_limits<double>::infinity();
    double warm = 0;
    for (std::uint32_t sample = 0; sample < kSamples;) {
        timeline.wait(timeline.submit(recorder));
        const double microseconds = timer.total_microseconds();
        if (microseconds <= 0) return 0;  // a device without timestamps
        warm += microseconds;
        best = std::min(best, microseconds);
        if (is_cpu || warm > kWarmMicroseconds) ++sample;
    }
    return 2.0 * static_cast<double>(bytes) / (best * 1e-6);
}

}  // namespace winnow::program
