// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/vk/buffer.h"

namespace winnow::vk {

/// Memory types among `type_bits` that suit `use`, best first; a pure function. Device buffers
/// never fall back to host memory on a device with its own: that would be slow without a word.
std::vector<std::uint32_t> memory_types_for(const VkPhysicalDeviceMemoryProperties& memory, std::uint32_t type_bits,
                                            BufferUse use, bool unified);

}  // namespace winnow::vk
