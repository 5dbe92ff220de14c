// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "runtime/vk/device_query.h"
#include "runtime/vk/instance.h"
#include "runtime/vk/matrix_layout.h"
#include "runtime/vk/pipeline_cache.h"
#include "runtime/vk/pipeline_statistics.h"

namespace winnow {

std::vector<DeviceInfo> list_devices() {
    const vk::Instance instance(false);
    std::vector<DeviceInfo> devices;
    for (VkPhysicalDevice physical : instance.physical_devices()) {
        const auto index = static_cast<std::uint32_t>(devices.size());
        devices.push_back(vk::query_device(instance, physical, index).info);
    }
    return devices;
}

namespace vk {
namespace {

bool is_set(const char* variable) {
    const char* value = std::getenv(variable);
    return value != nullptr && value[0] != '\0' && std::string(value) != "0";
}

/// Host and device share one memory, and the device's own types can be mapped.
bool is_unified(const DeviceInfo& info, const VkPhysicalDeviceMemoryProperties& memory) {
    bool all_local = true;
    bool mappable = false;
    constexpr VkMemoryPropertyFlags kShared = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT |
                                              VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                              VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (std::uint32_t i = 0; i < memory.memoryHeapCount; ++i) {
        all_local = all_local && (memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) != 0;
    }
    for (std::uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
        mappable = mappable || (memory.memoryTypes[i].propertyFlags & kShared) == kShared;
    }
    const bool shares = info.type == DeviceType::kIntegrated || info.type == DeviceType::kCpu;
    return mappable && (all_local || shares);
}

}  // namespace

std::unique_ptr<Device> Device::open(const DeviceOptions& options) {
    std::unique_ptr<Device> device(new Device());
    device->on_validation_ = options.on_validation;
    // The messenger may speak from now on until the instance dies, which is within the Device's
    // life.
    device->instance_ = std::make_unique<Instance>(
        options.validation, [raw = device.get()](std::string text) { raw->add_validation_message(std::move(text)); });
    const Instance& instance = *device->instance_;

    std::vector<DeviceReport> reports;
    std::vector<DeviceInfo> infos;
    for (VkPhysicalDevice physical : instance.physical_devices()) {
        reports.push_back(query_device(instance, physical, static_cast<std::uint32_t>(reports.size())));
        infos.push_back(reports.back().info);
    }
    std::string select = options.select;
    if (const char* variable = std::getenv("WINNOW_DEVICE"); select.empty() && variable != nullptr) {
        select = variable;
    }
    const DeviceReport& report = reports[choose_device(infos, select).index];
    if (!report.info.unusable_reason.empty()) {
        throw Error(
            ErrorCode::kUnsupported,
            fmt::format(
                "device '{}' {}: update its driver, or choose another with --device (--list-devices names them)",
                report.info.name, report.info.unusable_reason));
    }
    device->physical_ = report.physical;
    device->info_ = report.info;
    device->limits_ = report.limits;
    device->limits_.max_matrix_bytes =
        std::min(report.limits.max_storage_buffer_range, report.limits.max_allocation_bytes);
    if (options.max_matrix_bytes != 0)
        device->limits_.max_matrix_bytes = std::min(device->limits_.max_matrix_bytes, options.max_matrix_bytes);
    if (options.max_group_invocations != 0)
        device->limits_.max_workgroup_invocations =
            std::min(report.limits.max_workgroup_invocations, options.max_group_invocations);
    device->features_ = report.features;
    // The variable makes a software driver run the shaders of a GPU, for tests.
    if (is_set("WINNOW_NO_TEXELS")) device->features_.remove(Feature::kTexelLoads);
    device->queue_family_ = report.queue_family;
    device->validation_enabled_ = instance.validation_enabled();
    vkGetPhysicalDeviceMemoryProperties(device->physical_, &device->memory_);
    // The variable makes a shared-memory device take the copying paths of a discrete one, for
    // tests.
    device->unified_memory_ = is_unified(device->info_, device->memory_) && !is_set("WINNOW_DISCRETE_MEMORY");
    device->create_logical_device();
    device->pipeline_cache_ = std::make_unique<PipelineCache>(*device);
    device->info_.cache_problem = device->pipeline_cache_->problem();
    return device;
}

void Device::create_logical_device() {
    const bool matrix = features_.has(Feature::kCooperativeMatrix);
    FeatureChain wanted(matrix);
    choose_features(physical_, features_, validation_enabled_, wanted);
    std::vector<const char*> extensions{VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME};
    if (matrix) extensions.push_back(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);

    auto statistics = make_struct<VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR>(
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR);
    if (wants_pipeline_statistics() && has_extension(physical_, VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME)) {
        auto has = make_struct<VkPhysicalDeviceFeatures2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2);
        has.pNext = &statistics;
        vkGetPhysicalDeviceFeatures2(physical_, &has);
    }
    tells_pipeline_statistics_ = statistics.pipelineExecutableInfo == VK_TRUE;
    if (tells_pipeline_statistics_) {
        extensions.push_back(VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
        statistics.pNext = wanted.core.pNext;
        wanted.core.pNext = &statistics;
    }

    const float priority = 1.0f;
    auto queue = make_struct<VkDeviceQueueCreateInfo>(VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO);
    queue.queueFamilyIndex = queue_family_;
    queue.queueCount = 1;
    queue.pQueuePriorities = &priority;

    auto create = make_struct<VkDeviceCreateInfo>(VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO);
    create.pNext = &wanted.core;
    create.queueCreateInfoCount = 1;
    create.pQueueCreateInfos = &queue;
    create.enabledExtensionCount = static_cast<std::uint32_t>(extensions.size());
    create.ppEnabledExtensionNames = extensions.data();
    WINNOW_VK_CHECK(vkCreateDevice(physical_, &create, nullptr, &device_));
    vkGetDeviceQueue(device_, queue_family_, 0, &queue_);
}

Device::Device() = default;

Device::~Device() {
    pipeline_cache_.reset();
    if (device_ != VK_NULL_HANDLE) {
        vkDeviceWaitIdle(device_);
        vkDestroyDevice(device_, nullptr);
    }
    instance_.reset();  // before the messages that its messenger writes to
}

bool Device::known_matrix_layout() {
    std::call_once(matrix_layout_asked_, [this] { known_matrix_layout_ = has_known_matrix_layout(*this); });
    return known_matrix_layout_;
}

std::uint64_t Device::free_memory_bytes() const {
    // Some drivers, software ones among them, know of no use at all.
    const std::uint64_t own = std::min(allocated_bytes_.load(), info_.memory_bytes);
    return std::min(vk::free_memory_bytes(physical_), info_.memory_bytes - own);
}

void Device::set_name(VkObjectType type, std::uint64_t handle, const std::string& name) const {
    if (!instance_->debug_utils()) return;
    auto info = make_struct<VkDebugUtilsObjectNameInfoEXT>(VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT);
    info.objectType = type;
    info.objectHandle = handle;
    info.pObjectName = name.c_str();
    vkSetDebugUtilsObjectNameEXT(device_, &info);
}

void Device::count_allocation(std::int64_t bytes) {
    allocated_bytes_.fetch_add(static_cast<std::uint64_t>(bytes));  // wraps, so subtracts too
    if (bytes > 0) n_allocations_.fetch_add(1);
}

std::vector<std::string> Device::validation_messages() const {
    const std::lock_guard lock(messages_mutex_);
    return messages_;
}

void Device::add_validation_message(std::string text) {
    const std::lock_guard lock(messages_mutex_);
    if (on_validation_) on_validation_(text);
    messages_.push_back(std::move(text));
    n_validation_messages_.fetch_add(1);
}

}  // namespace vk
}  // namespace winnow
