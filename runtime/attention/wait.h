// SPDX-License-Identifier: Apache-2.0
#pragma once
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

}  // namespace winnow
