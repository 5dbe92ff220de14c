// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/sample_threshold.h"

#include <algorithm>
#include <array>

#include "runtime/vk/device.h"

namespace winnow {

SampleThreshold::SampleThreshold(vk::Device& device) {
    // At least 32 invocations: each holds at most 8 bins of the histogram.
    const std::array<std::uint32_t, 1> spec{
        device.is_cpu() ? 32u : std::min(1024u, device.limits().max_workgroup_invocations)};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("sample_threshold"), 3, sizeof(SamplePush), spec);
}

void SampleThreshold::record(vk::Recorder& recorder, const Buffers& b, const SamplePush& push) const {
    recorder.dispatch(pipeline_, {b.state, b.maxima, b.threshold}, push, 1);
}

}  // namespace winnow
