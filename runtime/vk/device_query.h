// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "runtime/vk/cooperative_matrix.h"
#include "runtime/vk/device.h"
#include "runtime/vk/instance.h"

namespace winnow::vk {

/// Feature structures linked into one chain; pinned in place because they point at each other.
struct FeatureChain {
    explicit FeatureChain(bool cooperative_matrix);
    FeatureChain(const FeatureChain&) = delete;
    FeatureChain& operator=(const FeatureChain&) = delete;

    VkPhysicalDeviceFeatures2 core =
        make_struct<VkPhysicalDeviceFeatures2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2);
    VkPhysicalDeviceVulkan11Features v11 =
        make_struct<VkPhysicalDeviceVulkan11Features>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES);
    VkPhysicalDeviceVulkan12Features v12 =
        make_struct<VkPhysicalDeviceVulkan12Features>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES);
    VkPhysicalDeviceVulkan13Features v13 =
        make_struct<VkPhysicalDeviceVulkan13Features>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES);
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix = make_struct<VkPhysicalDeviceCooperativeMatrixFeaturesKHR>(
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR);
};

/// What a physical device is and can do, asked without making a logical one.
struct DeviceReport {
    VkPhysicalDevice physical = VK_NULL_HANDLE;
    DeviceInfo info;  ///< unusable_reason is set when the baseline is not met
    DeviceLimits limits;
    FeatureSet features;
    std::uint32_t queue_family = 0;
};

/// Lanes of the subgroups that shaders are written for: 8 of them share a block of 32 values or a row, and masks have
/// 64 bits.
constexpr std::uint32_t kLeastSubgroup = 8, kMostSubgroup = 64;

/// The device's own size where shaders work with it, else, where sizes can be required, the nearest in [least, most]
/// that they work with; 0 when there is none. A pure function.
std::uint32_t usable_subgroup_size(std::uint32_t own, std::uint32_t least, std::uint32_t most, bool can_require);

DeviceReport query_device(const Instance& instance, VkPhysicalDevice physical, std::uint32_t index);

/// Of the device.
bool has_extension(VkPhysicalDevice physical, const char* name);

/// Bytes of the largest device-local heap that are free for this process (VK_EXT_memory_budget); all
/// of it where the driver does not say.
std::uint64_t free_memory_bytes(VkPhysicalDevice physical);

/// Sets in `wanted` what winnow uses of what `physical` has.
void choose_features(VkPhysicalDevice physical, FeatureSet features, bool robust, FeatureChain& wanted);

}  // namespace winnow::vk
