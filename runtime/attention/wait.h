// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstdint>

#include "runtime/vk/device.h"

namespace winnow {

// Stages whose workgroups wait for each other inside a dispatch: shaders/common/wait.glsl.

/// Looks at the others' arrivals before a workgroup gives up and does their part too.
constexpr std::uint32_t kPatience = 64;

/// Workgroups of each kv head that may wait for each other: a processor each, whatever else a processor has room for. 0
/// where the driver does not tell how many there are.
inline std::uint32_t most_waiting(const vk::Device& device, std::uint32_t n_kv_heads) {
    return device.limits().n_processors / n_kv_heads;
}

/// Of n workgroups to a kv head, how many there are where they wait for each other: as many as may. 0, none waits,
/// where that is less than half of them, since each would have as much more to do. Measured on an H200 with half and
/// with all of them; where the line is best drawn was not.
inline std::uint32_t waiting_of(std::uint32_t n, std::uint32_t most) { return 2 * most >= n ? std::min(n, most) : 0; }

}  // namespace winnow
