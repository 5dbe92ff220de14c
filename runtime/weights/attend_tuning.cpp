// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights/attend_tuning.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/vk/device.h"
#include "winnow/error.h"

namespace winnow {

std::uint64_t attend_shared_bytes(std::uint32_t group_size, std::uint32_t n_subgroups, std::uint64_t n_group,
                                  std::uint32_t head_dim, std::uint32_t n_splits) {
    const std::uint64_t quads = n_group * head_dim / 4;
    const std::uint64_t parts = group_size >= 4 * quads ? 4 : group_size >= 2 * quads ? 2 : 1;
    return 16 * quads * (std::max<std::uint64_t>(n_subgroups, parts) + 1) + 8 * n_group * (n_subgroups + 1) +
           4 * n_group * std::max(n_splits, n_subgroups) + 4;
}

AttendTuning attend_tuning(const vk::Device& device, std::uint32_t n_group, std::uint32_t head_dim,
                           std::uint32_t n_splits, const AttendTuning& asked) {
    if (asked.group_size != 0) return asked;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    AttendTuning t;
    // A software driver runs the subgroups of a group in turn: small groups spread better over few cores.
    t.group_size = device.limits().fitting_group(device.is_cpu() ? 32 : 256);
    const auto bytes_of = [&](std::uint32_t group_size) {
        return attend_shared_bytes(group_size, group_size / subgroup, n_group, head_dim, n_splits);
    };
    while (t.group_size > subgroup && bytes_of(t.group_size) > device.limits().max_shared_memory_bytes)
        t.group_size /= 2;
    const std::uint64_t bytes = bytes_of(t.group_size);
    if (bytes > device.limits().max_shared_memory_bytes)
        throw Error(ErrorCode::kUnsupported, fmt::format("{} query heads of {} on one kv head need {} KiB of shared "
                                                         "memory, and '{}' has {}: choose another model, "
                                                         "or another --device",
                                                         n_group, head_dim, (bytes + 1023) >> 10, device.info().name,
                                                         device.limits().max_shared_memory_bytes >> 10));
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

AttendTuning sparse_attend_tuning(const vk::Device& device, std::uint32_t n_group, std::uint32_t head_dim,
                                  std::uint32_t n_splits, const AttendTuning& asked, std::uint64_t own_shared_bytes) {
    AttendTuning t = attend_tuning(device, n_group, head_dim, n_splits, asked);
    if (asked.group_size != 0 || device.is_cpu() || head_dim < 128) return t;
    // There are no more workgroups than processors, so that each should bring as many invocations as its registers
    // allow: 23 us where 384 take 25, choice included (6,547 tokens, H200, 8B; 4 tokens in flight 24, one 25, 8 lanes
    // 29).
    constexpr std::uint32_t kWide = 512;
    const vk::DeviceLimits& limits = device.limits();
    if (kWide % limits.subgroup_size != 0 || kWide > limits.max_workgroup_invocations) return t;
    const std::uint64_t bytes = attend_shared_bytes(kWide, kWide / limits.subgroup_size, n_group, head_dim, n_splits);
    if (bytes + own_shared_bytes > limits.max_shared_memory_bytes) return t;
    t.group_size = kWide;
    t.tokens_in_flight = 2;
    return t;
}

}  // namespace winnow
