// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/vk/vulkan.h"

namespace winnow::vk {

/// A VkInstance with debug utils where the loader has them. Several may live at once: entry points
/// are the loader's, which find the right driver by the handle.
class Instance {
public:
    /// Called for each validation message of warning level or above, from any thread.
    using MessageSink = std::function<void(std::string)>;

    /// @throws Error(kNoDevice) when there is no loader or no driver.
    explicit Instance(bool validation, MessageSink sink = {});
    ~Instance();
    Instance(const Instance&) = delete;
    Instance& operator=(const Instance&) = delete;

    VkInstance handle() const { return instance_; }
    bool validation_enabled() const { return layer_version_ != 0; }
    /// Vulkan version that the validation layer was written for; 0 without the layer.
    std::uint32_t layer_version() const { return layer_version_; }
    bool debug_utils() const { return debug_utils_; }
    /// In the loader's order.
    std::vector<VkPhysicalDevice> physical_devices() const;

private:
    MessageSink sink_;
    VkInstance instance_ = VK_NULL_HANDLE;
    VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
    std::uint32_t layer_version_ = 0;
    bool debug_utils_ = false;
};

}  // namespace winnow::vk
