// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <string_view>

#include "runtime/vk/vulkan.h"

namespace winnow::vk {

const char* result_name(VkResult result) {
    switch (result) {
#define WINNOW_NAME(value) \
    case value: return #value;
        WINNOW_NAME(VK_SUCCESS)
        WINNOW_NAME(VK_NOT_READY)
        WINNOW_NAME(VK_TIMEOUT)
        WINNOW_NAME(VK_INCOMPLETE)
        WINNOW_NAME(VK_ERROR_OUT_OF_HOST_MEMORY)
        WINNOW_NAME(VK_ERROR_OUT_OF_DEVICE_MEMORY)
        WINNOW_NAME(VK_ERROR_INITIALIZATION_FAILED)
        WINNOW_NAME(VK_ERROR_DEVICE_LOST)
        WINNOW_NAME(VK_ERROR_MEMORY_MAP_FAILED)
        WINNOW_NAME(VK_ERROR_LAYER_NOT_PRESENT)
        WINNOW_NAME(VK_ERROR_EXTENSION_NOT_PRESENT)
        WINNOW_NAME(VK_ERROR_FEATURE_NOT_PRESENT)
        WINNOW_NAME(VK_ERROR_INCOMPATIBLE_DRIVER)
        WINNOW_NAME(VK_ERROR_TOO_MANY_OBJECTS)
        WINNOW_NAME(VK_ERROR_FRAGMENTED_POOL)
        WINNOW_NAME(VK_ERROR_OUT_OF_POOL_MEMORY)
        WINNOW_NAME(VK_ERROR_INVALID_EXTERNAL_HANDLE)
        WINNOW_NAME(VK_ERROR_FRAGMENTATION)
        WINNOW_NAME(VK_ERROR_INVALID_SHADER_NV)
        WINNOW_NAME(VK_PIPELINE_COMPILE_REQUIRED)
#undef WINNOW_NAME
        default: return "VK_ERROR_UNKNOWN";
    }
}

void check(VkResult result, const char* call, const char* file, int line) {
    if (result >= VK_SUCCESS) return;  // VK_INCOMPLETE and the like are no failures
    ErrorCode code = ErrorCode::kInternal;
    const char* remedy = "update the driver, or try another --device";
    if (result == VK_ERROR_OUT_OF_HOST_MEMORY || result == VK_ERROR_OUT_OF_DEVICE_MEMORY ||
        result == VK_ERROR_TOO_MANY_OBJECTS) {
        code = ErrorCode::kOutOfMemory;
        remedy = "use a smaller -c, or close what else uses memory";
    } else if (result == VK_ERROR_DEVICE_LOST) {
        code = ErrorCode::kDeviceLost;
        remedy = "start again; should it last, use a smaller -ub or another --device";
    }
    const std::string_view path(file);
    const std::string_view name = path.substr(path.find_last_of('/') + 1);
    throw Error(code, fmt::format("{} from {} ({}:{}): {}", result_name(result), call, name, line, remedy));
}

}  // namespace winnow::vk
