// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/norm_rows.h"

#include <algorithm>
#include <array>

#include "runtime/vk/device.h"

namespace winnow {

NormRows::NormRows(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    rows_per_group_ = device.limits().fitting_group(subgroup * (device.is_cpu() ? 1 : 4)) / subgroup;
    const std::array<std::uint32_t, 3> spec{rows_per_group_ * subgroup, c.n / 4, c.add ? 1u : 0u};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("norm_rows"), 4, sizeof(NormRowsPush), spec, subgroup);
}

void NormRows::record(vk::Recorder& recorder, const Buffers& b, const NormRowsPush& push) const {
    recorder.dispatch(pipeline_, {b.input, b.weight, b.halves, b.x}, push,
                      (push.n_tokens + rows_per_group_ - 1) / rows_per_group_);
}

std::uint64_t NormRows::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    return n_tokens * c.n * (c.add ? 12ull : 6ull) + c.n * 4ull;
}

}  // namespace winnow
