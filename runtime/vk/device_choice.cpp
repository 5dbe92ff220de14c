// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <tuple>

#include "winnow/device.h"
#include "winnow/error.h"

namespace winnow {
namespace {

int rank(DeviceType type) {
    switch (type) {
        case DeviceType::kDiscrete: return 4;
        case DeviceType::kIntegrated: return 3;
        case DeviceType::kVirtual: return 2;
        case DeviceType::kCpu: return 1;
        case DeviceType::kOther: return 0;
    }
    return 0;
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

std::string describe(const std::vector<DeviceInfo>& devices) {
    std::string text;
    for (const DeviceInfo& device : devices) {
        if (!text.empty()) text += "; ";
        text += fmt::format("{}: {}", device.index, device.name);
        if (!device.unusable_reason.empty()) text += fmt::format(" ({})", device.unusable_reason);
    }
    return text.empty() ? "none" : text;
}

/// Usable before unusable, then by kind, then by memory, then the loader's order.
bool is_better(const DeviceInfo& a, const DeviceInfo& b) {
    const auto key = [](const DeviceInfo& d) {
        return std::tuple(d.unusable_reason.empty(), rank(d.type), d.memory_bytes);
    };
    return key(a) > key(b);
}

}  // namespace

const DeviceInfo& choose_device(const std::vector<DeviceInfo>& devices, const std::string& select) {
    const auto refuse = [&](const std::string& why) {
        return Error(ErrorCode::kNoDevice, fmt::format("{}; devices: {}", why, describe(devices)));
    };

    std::uint32_t index = 0;
    const char* end = select.data() + select.size();
    const auto [parsed_to, error] = std::from_chars(select.data(), end, index);
    if (!select.empty() && error == std::errc{} && parsed_to == end) {
        for (const DeviceInfo& device : devices) {
            if (device.index == index) return device;
        }
        throw refuse(fmt::format("there is no Vulkan device {}", index));
    }

    const std::string part = lower(select);
    for (const DeviceInfo& device : devices) {
        if (!device.uuid.empty() && device.uuid == part) return device;
    }
    const DeviceInfo* best = nullptr;
    for (const DeviceInfo& device : devices) {
        if (lower(device.name).find(part) == std::string::npos) continue;
        if (best == nullptr || is_better(device, *best)) best = &device;
    }
    if (best == nullptr && !select.empty()) {
        throw refuse(fmt::format("no Vulkan device has '{}' in its name, or as its UUID", select));
    }
    // An unusable device is returned only when it was asked for: then opening it says what it
    // lacks.
    if (best == nullptr || (select.empty() && !best->unusable_reason.empty())) {
        throw refuse("no usable Vulkan device: install a Vulkan 1.3 driver (mesa-vulkan-drivers has one for CPUs)");
    }
    return *best;
}

}  // namespace winnow
