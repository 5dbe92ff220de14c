// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/sample_token.h"

#include <array>

#include "runtime/vk/device.h"

namespace winnow {

SampleToken::SampleToken(vk::Device& device) {
    const std::uint32_t group_size = device.is_cpu() ? 64 : 256;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    const std::array<std::uint32_t, 3> spec{group_size, group_size / subgroup, kGroups};
    pipeline_ =
        vk::ComputePipeline(device, vk::find_shader("sample_token"), 7, sizeof(SamplePush), spec, subgroup);
}

void SampleToken::record(vk::Recorder& recorder, const Buffers& b, const SamplePush& push) const {
    recorder.dispatch(pipeline_, {b.state, b.logits, b.threshold, b.candidates, b.counts, b.counter, b.ring}, push,
                      kGroups);
}

}  // namespace winnow
