// SPDX-License-Identifier: Apache-2.0
// The only header that includes Vulkan; entry points come from volk.
#pragma once
#define VK_NO_PROTOTYPES
#include <volk.h>

#include "winnow/error.h"

namespace winnow::vk {
/// @throws Error(kOutOfMemory | kDeviceLost | kInternal) naming the call and the VkResult.
void check(VkResult result, const char* call, const char* file, int line);
const char* result_name(VkResult result);

/// A structure that is zero but for its type.
template <typename T>
T make_struct(VkStructureType type) {
    T value{};
    value.sType = type;
    return value;
}
}  // namespace winnow::vk

#define WINNOW_VK_CHECK(call) ::winnow::vk::check((call), #call, __FILE__, __LINE__)
