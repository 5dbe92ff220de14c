// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/recorder.h"

namespace winnow::vk {
template <typename Record>
void run_once(Device& device, Record&& record) {
    Recorder recorder(device, "run_once");
    recorder.begin();
    recorder.full_barrier();
    record(recorder);
    recorder.full_barrier();
    recorder.end();
    Timeline timeline(device);
    timeline.wait(timeline.submit(recorder));
}
}  // namespace winnow::vk
