// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/instance.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <mutex>

namespace winnow::vk {
namespace {

constexpr const char* kValidationLayer = "VK_LAYER_KHRONOS_validation";
constexpr const char* kNoDriver =
    "no Vulkan driver found: install the GPU vendor's driver, or mesa-vulkan-drivers (which also "
    "runs on the CPU)";

/// Version of the validation layer, 0 when it is not installed.
std::uint32_t find_validation_layer() {
    std::uint32_t n_layers = 0;
    WINNOW_VK_CHECK(vkEnumerateInstanceLayerProperties(&n_layers, nullptr));
    std::vector<VkLayerProperties> layers(n_layers);
    WINNOW_VK_CHECK(vkEnumerateInstanceLayerProperties(&n_layers, layers.data()));
    for (const VkLayerProperties& layer : layers) {
        if (std::strcmp(layer.layerName, kValidationLayer) == 0) return layer.specVersion;
    }
    return 0;
}

bool has_extension(const char* layer, const char* name) {
    std::uint32_t n_extensions = 0;
    WINNOW_VK_CHECK(vkEnumerateInstanceExtensionProperties(layer, &n_extensions, nullptr));
    std::vector<VkExtensionProperties> extensions(n_extensions);
    WINNOW_VK_CHECK(vkEnumerateInstanceExtensionProperties(layer, &n_extensions, extensions.data()));
    for (const VkExtensionProperties& extension : extensions) {
        if (std::strcmp(extension.extensionName, name) == 0) return true;
    }
    return false;
}

VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                          VkDebugUtilsMessageTypeFlagsEXT,
                                          const VkDebugUtilsMessengerCallbackDataEXT* data, void* user) {
    const auto& sink = *static_cast<const Instance::MessageSink*>(user);
    const bool is_error = (severity & VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT) != 0;
    try {
        if (sink) {
            sink(fmt::format("{} {}: {}", is_error ? "error" : "warning",
                             data->pMessageIdName != nullptr ? data->pMessageIdName : "",
                             data->pMessage != nullptr ? data->pMessage : ""));
        }
    } catch (...) {  // C code is above us on the stack
    }
    return VK_FALSE;
}

void load_entry_points() {
    // volk's pointers are global: load them once. A failure is not kept, so that a later call may
    // succeed.
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    if (vkCreateInstance == nullptr && volkInitialize() != VK_SUCCESS) {
        throw Error(ErrorCode::kNoDevice,
                    "no Vulkan loader (libvulkan.so.1): install libvulkan1 and a driver, e.g. the "
                    "GPU vendor's or mesa-vulkan-drivers");
    }
}

void load_instance_functions(VkInstance instance) {
    // Once is enough: these are the loader's own functions, the same for every instance. Device
    // functions too stay the loader's (no volkLoadDevice), which lets devices of different drivers
    // coexist.
    static std::once_flag loaded;
    std::call_once(loaded, [&] { volkLoadInstance(instance); });
}

}  // namespace

Instance::Instance(bool validation, MessageSink sink) : sink_(std::move(sink)) {
    load_entry_points();
    if (validation) layer_version_ = find_validation_layer();
    debug_utils_ = has_extension(nullptr, VK_EXT_DEBUG_UTILS_EXTENSION_NAME);

    auto application = make_struct<VkApplicationInfo>(VK_STRUCTURE_TYPE_APPLICATION_INFO);
    application.pApplicationName = "winnow";
    application.pEngineName = "winnow";
    application.apiVersion = VK_API_VERSION_1_3;

    std::vector<const char*> layers;
    std::vector<const char*> extensions;
    if (debug_utils_) extensions.push_back(VK_EXT_DEBUG_UTILS_EXTENSION_NAME);

    auto create = make_struct<VkInstanceCreateInfo>(VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO);
    auto messenger =
        make_struct<VkDebugUtilsMessengerCreateInfoEXT>(VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT);
    messenger.messageSeverity =
        VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    // Not GENERAL: loaders and drivers use it for remarks about other drivers on the machine.
    messenger.messageType =
        VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT;
    messenger.pfnUserCallback = on_message;
    messenger.pUserData = &sink_;

    constexpr std::array kEnabled{VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
    auto features = make_struct<VkValidationFeaturesEXT>(VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT);
    features.enabledValidationFeatureCount = static_cast<std::uint32_t>(kEnabled.size());
    features.pEnabledValidationFeatures = kEnabled.data();

    if (validation_enabled()) {
        layers.push_back(kValidationLayer);
        if (debug_utils_) create.pNext = &messenger;
        if (has_extension(kValidationLayer, VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME)) {
            extensions.push_back(VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME);
            features.pNext = create.pNext;
            create.pNext = &features;
        }
    }
    create.pApplicationInfo = &application;
    create.enabledLayerCount = static_cast<std::uint32_t>(layers.size());
    create.ppEnabledLayerNames = layers.data();
    create.enabledExtensionCount = static_cast<std::uint32_t>(extensions.size());
    create.ppEnabledExtensionNames = extensions.data();

    const VkResult result = vkCreateInstance(&create, nullptr, &instance_);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER) throw Error(ErrorCode::kNoDevice, kNoDriver);
    WINNOW_VK_CHECK(result);
    load_instance_functions(instance_);
    if (validation_enabled() && debug_utils_) {
        const VkResult created = vkCreateDebugUtilsMessengerEXT(instance_, &messenger, nullptr, &messenger_);
        if (created != VK_SUCCESS) {
            vkDestroyInstance(instance_, nullptr);
            WINNOW_VK_CHECK(created);
        }
    }
}

Instance::~Instance() {
    if (messenger_ != VK_NULL_HANDLE) vkDestroyDebugUtilsMessengerEXT(instance_, messenger_, nullptr);
    vkDestroyInstance(instance_, nullptr);
}

std::vector<VkPhysicalDevice> Instance::physical_devices() const {
    std::uint32_t n_devices = 0;
    const VkResult result = vkEnumeratePhysicalDevices(instance_, &n_devices, nullptr);
    // Drivers without their hardware answer this way.
    if (result == VK_ERROR_INITIALIZATION_FAILED || n_devices == 0) {
        throw Error(ErrorCode::kNoDevice, kNoDriver);
    }
    WINNOW_VK_CHECK(result);
    std::vector<VkPhysicalDevice> devices(n_devices);
    WINNOW_VK_CHECK(vkEnumeratePhysicalDevices(instance_, &n_devices, devices.data()));
    devices.resize(n_devices);
    return devices;
}

}  // namespace winnow::vk
