// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace winnow {

enum class DeviceType { kDiscrete, kIntegrated, kVirtual, kCpu, kOther };

/// A Vulkan device as the loader reports it; index is its place in the loader's list.
struct DeviceInfo {
    std::uint32_t index = 0;
    std::string name;
    DeviceType type = DeviceType::kOther;
    std::string driver;             ///< driver name and its own version text
    std::uint32_t api_version = 0;  ///< packed as Vulkan does
    std::uint32_t vendor_id = 0;
    std::uint32_t subgroup_size = 0;
    std::uint64_t memory_bytes = 0;  ///< size of the largest device-local heap
    std::string uuid;                ///< deviceUUID as 8-4-4-4-12 hexadecimal digits; empty when unknown
    std::string unusable_reason;     ///< empty, or the requirement that is missing
    std::string cache_problem;       ///< of an open device: empty, or why compiled shaders cannot be kept
};

struct DeviceOptions {
    /// Empty: best by rank discrete > integrated > virtual > CPU, then memory. Otherwise an index,
    /// a UUID or a case-insensitive part of a name. The variable WINNOW_DEVICE stands in for an empty one.
    std::string select;
    bool validation = false;  ///< Khronos layer with synchronisation validation, if installed
    /// Called for each validation message of warning level or above, from any thread and even while the device closes.
    std::function<void(const std::string&)> on_validation;
    /// For tests: matrices are cut into row ranges of so many bytes, where the device itself would bind more. 0 = what
    /// it binds.
    std::uint64_t max_matrix_bytes = 0;
    std::uint32_t max_group_invocations =
        0;  ///< for tests: of a workgroup, where the device itself would run more. 0 = what it runs
};

/// All devices, usable or not. @throws Error(kNoDevice) when there is no Vulkan loader.
std::vector<DeviceInfo> list_devices();

/// The device that `select` names among `devices`; a pure function.
/// @throws Error(kNoDevice) naming what there is.
const DeviceInfo& choose_device(const std::vector<DeviceInfo>& devices, const std::string& select);

}  // namespace winnow
