// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/memory_type.h"

#include <algorithm>

namespace winnow::vk {
namespace {

struct Wish {
    VkMemoryPropertyFlags required = 0;
    VkMemoryPropertyFlags preferred = 0;
    VkMemoryPropertyFlags avoided = 0;
};

Wish wish_for(BufferUse use, bool unified) {
    constexpr VkMemoryPropertyFlags kLocal = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    constexpr VkMemoryPropertyFlags kVisible = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT;
    constexpr VkMemoryPropertyFlags kMapped = kVisible | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    constexpr VkMemoryPropertyFlags kCached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    switch (use) {
        case BufferUse::kDevice:
            if (unified) return {kLocal, kMapped, 0};
            return {kLocal, 0, kVisible};  // leaves a small mappable window to those who need it
        case BufferUse::kUpload: return {kMapped, kCached, kLocal};  // cached: repacking reads back
        case BufferUse::kReadback: return {kMapped, kCached, kLocal};
        case BufferUse::kShared: return {kMapped, kLocal, 0};
    }
    return {};
}

int n_bits(VkMemoryPropertyFlags flags) { return __builtin_popcount(flags); }

}  // namespace

std::vector<std::uint32_t> memory_types_for(const VkPhysicalDeviceMemoryProperties& memory, std::uint32_t type_bits,
                                            BufferUse use, bool unified) {
    // Protected memory, and AMD's uncached debugging types, must be asked for by special features.
    constexpr VkMemoryPropertyFlags kNever =
        VK_MEMORY_PROPERTY_PROTECTED_BIT | VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT |
        VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD | VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD;
    const Wish wish = wish_for(use, unified);
    const auto score = [&](std::uint32_t type) {
        const VkMemoryPropertyFlags flags = memory.memoryTypes[type].propertyFlags;
        return n_bits(flags & wish.preferred) - n_bits(flags & wish.avoided);
    };
    std::vector<std::uint32_t> types;
    for (std::uint32_t type = 0; type < memory.memoryTypeCount; ++type) {
        const VkMemoryPropertyFlags flags = memory.memoryTypes[type].propertyFlags;
        if ((type_bits & (1u << type)) == 0 || (flags & kNever) != 0) continue;
        if ((flags & wish.required) == wish.required) types.push_back(type);
    }
    std::stable_sort(types.begin(), types.end(), [&](std::uint32_t a, std::uint32_t b) { return score(a) > score(b); });
    return types;
}

}  // namespace winnow::vk
