// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/sample_token.h"

#include <array>

#include "runtime/vk/device.h"

namespace winnow {

// Every workgroup reads all maxima, so a software driver, which has few cores, gets few of them.
SampleToken::SampleToken(vk::Device& device) : n_groups_(device.is_cpu() ? 8 : kMaxGroups) {
    const std::uint32_t group_size = device.limits().fitting_group(device.is_cpu() ? 64 : 512);
    const std::uint32_t subgroup = device.limits().subgroup_size;
    const std::array<std::uint32_t, 3> spec{group_size, group_size / subgroup, n_groups_};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("sample_token"), 7, sizeof(SamplePush), spec, subgroup);
}

void SampleToken::record(vk::Recorder& recorder, const Buffers& b, const SamplePush& push) const {
    recorder.dispatch(pipeline_, {b.state, b.logits, b.maxima, b.candidates, b.counts, b.counter, b.ring}, push,
                      n_groups_);
}

}  // namespace winnow
