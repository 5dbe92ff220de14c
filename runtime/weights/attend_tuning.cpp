// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights/attend_tuning.h"

#include "runtime/vk/device.h"

namespace winnow {

std::uint64_t attend_shared_bytes(std::uint32_t n_subgroups, std::uint32_t n_group, std::uint32_t head_dim,
                                  std::uint32_t n_splits) {
    return 4ull * (n_subgroups * n_group * (head_dim + 2) + n_splits * n_group + n_group * head_dim * 5 + 64);
}

AttendTuning attend_tuning(const vk::Device& device, std::uint32_t n_group, std::uint32_t head_dim,
                           std::uint32_t n_splits, const AttendTuning& asked) {
    if (asked.group_size != 0) return asked;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    AttendTuning t;
    // A software driver runs the subgroups of a group in turn: small groups spread better over few cores.
    t.group_size = device.limits().fitting_group(device.is_cpu() ? 32 : 256);
    while (t.group_size > subgroup &&
           attend_shared_bytes(t.group_size / subgroup, n_group, head_dim, n_splits) > device.limits().max_shared_memory_bytes)
        t.group_size /= 2;
    if (device.is_cpu()) {
        // Registers bound how many tokens are worth holding at once.
        t.tokens_in_flight = n_group * head_dim >= 1024 ? 1 : 2;
        return t;
    }
    // Best of a sweep on an H100 (winnow_tune): 16 lanes for long rows, so that four tokens under way still fit the
    // registers.
    if (head_dim >= 128 && subgroup >= 16) t.lanes = 16;
    t.tokens_in_flight = n_group * head_dim / t.lanes >= 64 ? 2 : 4;
    return t;
}

}  // namespace winnow
