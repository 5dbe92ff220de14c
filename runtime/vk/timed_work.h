// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <string>

#include "runtime/vk/recorder.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/timer.h"

namespace winnow::vk {

/// Work that is recorded once and submitted again and again, to be timed by the device's own clock.
class TimedWork {
public:
    /// `record` places its own barriers, the last one included if it is to be counted.
    TimedWork(Device& device, std::string name, const std::function<void(Recorder&)>& record);

    /// Submits without pause until an idle GPU has raised its clocks: 60 ms, and until all TimedWork since the last
    /// pause of a second sums to 600; once on a software driver.
    void warm_up();
    /// Submits and waits. Microseconds on the device; 0 where it has no timestamps.
    double run();

private:
    Device& device_;
    Recorder recorder_;
    GpuTimer timer_;
    Timeline timeline_;
};

/// Bytes per second, read and written, that a shader of our own copies: what stages are measured against. Takes two
/// buffers far larger than any cache for as long as it runs. 0 where the device has no timestamps.
double measure_copy_bandwidth(Device& device);

}  // namespace winnow::vk
