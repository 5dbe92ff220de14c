// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/device_query.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "runtime/vk/buffer.h"

namespace winnow::vk {
namespace {

constexpr VkSubgroupFeatureFlags kSubgroupOps = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT |
                                                VK_SUBGROUP_FEATURE_BALLOT_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;

struct Properties {
    Properties() {
        core.pNext = &v11;
        v11.pNext = &v12;
        v12.pNext = &v13;
    }
    Properties(const Properties&) = delete;
    Properties& operator=(const Properties&) = delete;

    VkPhysicalDeviceProperties2 core =
        make_struct<VkPhysicalDeviceProperties2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2);
    VkPhysicalDeviceVulkan11Properties v11 =
        make_struct<VkPhysicalDeviceVulkan11Properties>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES);
    VkPhysicalDeviceVulkan12Properties v12 =
        make_struct<VkPhysicalDeviceVulkan12Properties>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES);
    VkPhysicalDeviceVulkan13Properties v13 =
        make_struct<VkPhysicalDeviceVulkan13Properties>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES);
};

DeviceType device_type(VkPhysicalDeviceType type) {
    switch (type) {
        case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return DeviceType::kDiscrete;
        case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return DeviceType::kIntegrated;
        case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return DeviceType::kVirtual;
        case VK_PHYSICAL_DEVICE_TYPE_CPU: return DeviceType::kCpu;
        default: return DeviceType::kOther;
    }
}

std::string version_text(std::uint32_t version) {
    return fmt::format("{}.{}.{}", VK_API_VERSION_MAJOR(version), VK_API_VERSION_MINOR(version),
                       VK_API_VERSION_PATCH(version));
}

std::string uuid_text(const std::uint8_t (&bytes)[VK_UUID_SIZE]) {
    std::string text;
    for (std::size_t i = 0; i < VK_UUID_SIZE; ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
        text += fmt::format("{:02x}", bytes[i]);
    }
    return text;
}

}  // namespace

bool has_extension(VkPhysicalDevice physical, const char* name) {
    std::uint32_t n_extensions = 0;
    WINNOW_VK_CHECK(vkEnumerateDeviceExtensionProperties(physical, nullptr, &n_extensions, nullptr));
    std::vector<VkExtensionProperties> all(n_extensions);
    WINNOW_VK_CHECK(vkEnumerateDeviceExtensionProperties(physical, nullptr, &n_extensions, all.data()));
    return std::any_of(all.begin(), all.end(), [&](const VkExtensionProperties& extension) {
        return std::strcmp(extension.extensionName, name) == 0;
    });
}

namespace {

/// The first family that computes and has timestamps, else the first that computes.
bool find_queue_family(VkPhysicalDevice physical, std::uint32_t& family, std::uint32_t& timestamp_bits) {
    std::uint32_t n_families = 0;
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &n_families, nullptr);
    std::vector<VkQueueFamilyProperties> families(n_families);
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &n_families, families.data());
    bool found = false;
    for (std::uint32_t i = 0; i < n_families; ++i) {
        if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) continue;
        if (found && families[i].timestampValidBits == 0) continue;
        family = i;
        timestamp_bits = families[i].timestampValidBits;
        found = true;
        if (timestamp_bits != 0) break;
    }
    return found;
}

std::string missing_requirement(VkPhysicalDevice physical, const FeatureChain& has, const Properties& properties) {
    if (has.v11.storageBuffer16BitAccess == VK_FALSE) return "lacks 16-bit storage";
    // Values of 16 bits pass through functions on their way to storage, which is arithmetic by the
    // rules.
    if (has.core.features.shaderInt16 == VK_FALSE) return "lacks 16-bit integers";
    if (has.v12.timelineSemaphore == VK_FALSE) return "lacks timeline semaphores";
    if (has.v12.scalarBlockLayout == VK_FALSE) return "lacks scalar block layout";
    if (has.v12.hostQueryReset == VK_FALSE) return "lacks host query reset";
    if (has.v13.synchronization2 == VK_FALSE) return "lacks synchronization2";
    if (has.v13.maintenance4 == VK_FALSE) return "lacks maintenance4";
    if ((properties.v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) == 0 ||
        (properties.v11.subgroupSupportedOperations & kSubgroupOps) != kSubgroupOps) {
        return "lacks subgroup arithmetic, ballot and shuffle in compute shaders";
    }
    if (!has_extension(physical, VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME)) {
        return "lacks VK_KHR_push_descriptor";
    }
    return {};
}

std::uint32_t find_processors(VkPhysicalDevice physical) {
    if (!has_extension(physical, VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME)) return 0;
    auto built_in = make_struct<VkPhysicalDeviceShaderSMBuiltinsPropertiesNV>(
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV);
    auto properties = make_struct<VkPhysicalDeviceProperties2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2);
    properties.pNext = &built_in;
    vkGetPhysicalDeviceProperties2(physical, &properties);
    return built_in.shaderSMCount;
}

/// Shapes that the shaders can be specialised to: units of 8 halves fill whole rows, and the results' rows whole units
/// of 4 floats.
bool is_usable(const VkCooperativeMatrixPropertiesKHR& s) {
    const auto is_side = [](std::uint32_t n) { return n == 8 || n == 16; };
    return is_side(s.MSize) && is_side(s.NSize) && is_side(s.KSize) && s.AType == VK_COMPONENT_TYPE_FLOAT16_KHR &&
           s.BType == VK_COMPONENT_TYPE_FLOAT16_KHR && s.CType == VK_COMPONENT_TYPE_FLOAT32_KHR &&
           s.ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR && s.scope == VK_SCOPE_SUBGROUP_KHR;
}

/// The largest usable shape, zeros when there is none: 16x16x16 on nearly all GPUs.
MatrixShape find_matrix_shape(const Instance& instance, VkPhysicalDevice physical) {
    const auto query = reinterpret_cast<PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR>(
        vkGetInstanceProcAddr(instance.handle(), "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"));
    if (query == nullptr) return {};

    VkPhysicalDeviceCooperativeMatrixPropertiesKHR stages{
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR, nullptr, 0};
    auto properties = make_struct<VkPhysicalDeviceProperties2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2);
    properties.pNext = &stages;
    vkGetPhysicalDeviceProperties2(physical, &properties);
    if ((stages.cooperativeMatrixSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) == 0) return {};

    std::uint32_t n_shapes = 0;
    WINNOW_VK_CHECK(query(physical, &n_shapes, nullptr));
    VkCooperativeMatrixPropertiesKHR empty{};
    empty.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
    std::vector<VkCooperativeMatrixPropertiesKHR> shapes(n_shapes, empty);
    WINNOW_VK_CHECK(query(physical, &n_shapes, shapes.data()));
    MatrixShape best;
    for (const VkCooperativeMatrixPropertiesKHR& s : shapes) {
        if (is_usable(s) && s.MSize * s.NSize * s.KSize > best.m * best.n * best.k) best = {s.MSize, s.NSize, s.KSize};
    }
    return best;
}

/// Zeros where cooperative matrices cannot be used.
MatrixShape find_cooperative_matrix(const Instance& instance, VkPhysicalDevice physical) {
    // A layer from before the extension would report its structures and its SPIR-V as errors.
    constexpr std::uint32_t kFirstLayer = VK_MAKE_API_VERSION(0, 1, 3, 255);
    if (instance.validation_enabled() && instance.layer_version() < kFirstLayer) return {};
    if (!has_extension(physical, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME)) return {};
    FeatureChain has(true);
    vkGetPhysicalDeviceFeatures2(physical, &has.core);
    if (has.matrix.cooperativeMatrix == VK_FALSE || has.v12.shaderFloat16 == VK_FALSE ||
        has.v12.vulkanMemoryModel == VK_FALSE) {
        return {};
    }
    return find_matrix_shape(instance, physical);
}

DeviceLimits read_limits(const Properties& properties, std::uint32_t timestamp_bits) {
    const VkPhysicalDeviceLimits& from = properties.core.properties.limits;
    DeviceLimits limits;
    limits.max_storage_buffer_range = from.maxStorageBufferRange;
    limits.max_allocation_bytes = std::min(properties.v11.maxMemoryAllocationSize, properties.v13.maxBufferSize);
    limits.storage_buffer_alignment = from.minStorageBufferOffsetAlignment;
    limits.max_shared_memory_bytes = from.maxComputeSharedMemorySize;
    limits.max_workgroup_invocations = from.maxComputeWorkGroupInvocations;
    limits.max_workgroup_count_x = from.maxComputeWorkGroupCount[0];
    limits.max_workgroup_count_y = from.maxComputeWorkGroupCount[1];
    limits.max_workgroup_count_z = from.maxComputeWorkGroupCount[2];
    std::copy_n(from.maxComputeWorkGroupSize, 3, limits.max_workgroup_size.begin());
    limits.max_push_constant_bytes = from.maxPushConstantsSize;
    limits.subgroup_size = properties.v11.subgroupSize;
    limits.min_subgroup_size = properties.v13.minSubgroupSize;
    limits.max_subgroup_size = properties.v13.maxSubgroupSize;
    limits.max_workgroup_subgroups = properties.v13.maxComputeWorkgroupSubgroups;
    limits.timestamp_period_ns = static_cast<double>(from.timestampPeriod);
    limits.timestamp_valid_bits = timestamp_bits;
    return limits;
}

}  // namespace

std::uint32_t usable_subgroup_size(std::uint32_t own, std::uint32_t least, std::uint32_t most, bool can_require) {
    const std::uint32_t size = std::clamp(own, kLeastSubgroup, kMostSubgroup);
    return size == own || (can_require && least <= size && size <= most) ? size : 0;
}

FeatureChain::FeatureChain(bool cooperative_matrix) {
    core.pNext = &v11;
    v11.pNext = &v12;
    v12.pNext = &v13;
    if (cooperative_matrix) v13.pNext = &matrix;
}

DeviceReport query_device(const Instance& instance, VkPhysicalDevice physical, std::uint32_t index) {
    DeviceReport report;
    report.physical = physical;
    DeviceInfo& info = report.info;

    VkPhysicalDeviceProperties basic{};
    vkGetPhysicalDeviceProperties(physical, &basic);
    info.index = index;
    info.name = basic.deviceName;
    info.type = device_type(basic.deviceType);
    info.api_version = basic.apiVersion;
    info.vendor_id = basic.vendorID;

    VkPhysicalDeviceMemoryProperties memory{};
    vkGetPhysicalDeviceMemoryProperties(physical, &memory);
    for (std::uint32_t i = 0; i < memory.memoryHeapCount; ++i) {
        if ((memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) == 0) continue;
        info.memory_bytes = std::max<std::uint64_t>(info.memory_bytes, memory.memoryHeaps[i].size);
    }

    // Older devices do not know the structures that the rest of this function asks for.
    if (basic.apiVersion < VK_API_VERSION_1_3) {
        info.unusable_reason = fmt::format("offers Vulkan {}, needs 1.3", version_text(basic.apiVersion));
        return report;
    }
    Properties properties;
    vkGetPhysicalDeviceProperties2(physical, &properties.core);
    info.driver = fmt::format("{} {}", properties.v12.driverName, properties.v12.driverInfo);
    info.subgroup_size = properties.v11.subgroupSize;
    info.uuid = uuid_text(properties.v11.deviceUUID);

    std::uint32_t timestamp_bits = 0;
    if (!find_queue_family(physical, report.queue_family, timestamp_bits)) {
        info.unusable_reason = "has no compute queue";
        return report;
    }
    FeatureChain has(false);
    vkGetPhysicalDeviceFeatures2(physical, &has.core);
    info.unusable_reason = missing_requirement(physical, has, properties);
    report.limits = read_limits(properties, timestamp_bits);

    FeatureSet& features = report.features;
    if (has.v12.shaderFloat16 != VK_FALSE) features.add(Feature::kFloat16);
    if (has.v13.shaderIntegerDotProduct != VK_FALSE) features.add(Feature::kIntegerDot);
    if (has.v13.subgroupSizeControl != VK_FALSE && has.v13.computeFullSubgroups != VK_FALSE &&
        (properties.v13.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0) {
        features.add(Feature::kSubgroupSizeControl);
    }
    const DeviceLimits& limits = report.limits;
    if (const std::uint32_t size =
            usable_subgroup_size(limits.subgroup_size, limits.min_subgroup_size, limits.max_subgroup_size,
                                 features.has(Feature::kSubgroupSizeControl))) {
        info.subgroup_size = report.limits.subgroup_size = size;
    } else if (info.unusable_reason.empty()) {
        info.unusable_reason =
            fmt::format("has subgroups of {}, needs {} to {}", limits.subgroup_size, kLeastSubgroup, kMostSubgroup);
    }
    if (timestamp_bits != 0 && report.limits.timestamp_period_ns > 0) {
        features.add(Feature::kTimestamps);
    }
    // Where a driver's vectors are the CPU's, see shaders/common/words.glsl. Texels stand in for whatever a storage
    // buffer may be.
    const VkPhysicalDeviceLimits& core = properties.core.properties.limits;
    if (info.type == DeviceType::kCpu && core.maxTexelBufferElements > core.maxStorageBufferRange / kTexelBytes &&
        core.minStorageBufferOffsetAlignment % core.minTexelBufferOffsetAlignment == 0 &&
        core.minStorageBufferOffsetAlignment % kTexelBytes == 0) {
        features.add(Feature::kTexelLoads);
    }
    report.limits.n_processors = find_processors(physical);
    report.limits.matrix = find_cooperative_matrix(instance, physical);
    if (report.limits.matrix.m != 0) features.add(Feature::kCooperativeMatrix);
    return report;
}

std::uint64_t free_memory_bytes(VkPhysicalDevice physical) {
    auto budget = make_struct<VkPhysicalDeviceMemoryBudgetPropertiesEXT>(
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT);
    auto memory = make_struct<VkPhysicalDeviceMemoryProperties2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2);
    const bool known = has_extension(physical, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    if (known) memory.pNext = &budget;
    vkGetPhysicalDeviceMemoryProperties2(physical, &memory);
    std::uint64_t largest = 0, free = 0;
    for (std::uint32_t i = 0; i < memory.memoryProperties.memoryHeapCount; ++i) {
        const VkMemoryHeap& heap = memory.memoryProperties.memoryHeaps[i];
        if ((heap.flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) == 0 || heap.size <= largest) continue;
        largest = free = heap.size;
        if (known) {
            const std::uint64_t offered = std::min<std::uint64_t>(budget.heapBudget[i], heap.size);
            free = offered - std::min<std::uint64_t>(budget.heapUsage[i], offered);
        }
    }
    return free;
}

void choose_features(VkPhysicalDevice physical, FeatureSet features, bool robust, FeatureChain& wanted) {
    FeatureChain has(false);
    vkGetPhysicalDeviceFeatures2(physical, &has.core);
    wanted.core.features.shaderInt16 = has.core.features.shaderInt16;
    wanted.core.features.shaderInt64 = has.core.features.shaderInt64;
    wanted.core.features.robustBufferAccess = robust ? has.core.features.robustBufferAccess : VK_FALSE;
    wanted.v11.storageBuffer16BitAccess = VK_TRUE;
    wanted.v12.storageBuffer8BitAccess = has.v12.storageBuffer8BitAccess;
    wanted.v12.shaderFloat16 = has.v12.shaderFloat16;
    wanted.v12.shaderInt8 = has.v12.shaderInt8;
    wanted.v12.shaderSubgroupExtendedTypes = has.v12.shaderSubgroupExtendedTypes;
    wanted.v12.subgroupBroadcastDynamicId = has.v12.subgroupBroadcastDynamicId;
    wanted.v12.scalarBlockLayout = VK_TRUE;
    wanted.v12.timelineSemaphore = VK_TRUE;
    wanted.v12.hostQueryReset = VK_TRUE;
    wanted.v12.vulkanMemoryModel = has.v12.vulkanMemoryModel;
    wanted.v12.vulkanMemoryModelDeviceScope = has.v12.vulkanMemoryModelDeviceScope;
    wanted.v13.synchronization2 = VK_TRUE;
    wanted.v13.maintenance4 = VK_TRUE;
    wanted.v13.shaderIntegerDotProduct = has.v13.shaderIntegerDotProduct;
    wanted.v13.subgroupSizeControl = has.v13.subgroupSizeControl;
    wanted.v13.computeFullSubgroups = has.v13.computeFullSubgroups;
    wanted.matrix.cooperativeMatrix = features.has(Feature::kCooperativeMatrix) ? VK_TRUE : VK_FALSE;
}

}  // namespace winnow::vk
