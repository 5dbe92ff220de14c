// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/memory_type.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>

namespace winnow::vk {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr VkMemoryPropertyFlags kLocal = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
constexpr VkMemoryPropertyFlags kMapped = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
constexpr VkMemoryPropertyFlags kCached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
constexpr std::uint32_t kAny = ~0u;

VkPhysicalDeviceMemoryProperties make_memory(std::initializer_list<VkMemoryPropertyFlags> types) {
    VkPhysicalDeviceMemoryProperties memory{};
    for (VkMemoryPropertyFlags flags : types) {
        memory.memoryTypes[memory.memoryTypeCount++].propertyFlags = flags;
    }
    return memory;
}

TEST(MemoryTypes, DiscreteDeviceWithMappableWindow) {
    // 0: none, 1: video memory, 2: host, 3: host cached, 4: mappable window of video memory
    const auto memory = make_memory({0, kLocal, kMapped, kMapped | kCached, kMapped | kLocal});
    EXPECT_THAT(memory_types_for(memory, kAny, BufferUse::kDevice, false), ElementsAre(1u, 4u));
    EXPECT_THAT(memory_types_for(memory, kAny, BufferUse::kUpload, false), ElementsAre(3u, 2u, 4u));
    EXPECT_THAT(memory_types_for(memory, kAny, BufferUse::kReadback, false), ElementsAre(3u, 2u, 4u));
    EXPECT_THAT(memory_types_for(memory, kAny, BufferUse::kShared, false), ElementsAre(4u, 2u, 3u));
}

TEST(MemoryTypes, UnifiedDevicePrefersWhatCanBeMapped) {
    const auto memory = make_memory({kLocal, kLocal | kMapped | kCached});
    EXPECT_THAT(memory_types_for(memory, kAny, BufferUse::kDevice, true), ElementsAre(1u, 0u));
    EXPECT_THAT(memory_types_for(memory, kAny, BufferUse::kShared, true), ElementsAre(1u));
}

TEST(MemoryTypes, ObeysTheBuffersTypeBits) {
    const auto memory = make_memory({kLocal, kLocal, kMapped});
    EXPECT_THAT(memory_types_for(memory, 0b110, BufferUse::kDevice, false), ElementsAre(1u));
    EXPECT_THAT(memory_types_for(memory, 0b011, BufferUse::kReadback, false), IsEmpty());
}

TEST(MemoryTypes, LeavesSpecialMemoryAlone) {
    const auto memory = make_memory(
        {kLocal | VK_MEMORY_PROPERTY_PROTECTED_BIT, kLocal | VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD, kLocal});
    EXPECT_THAT(memory_types_for(memory, kAny, BufferUse::kDevice, false), ElementsAre(2u));
}

}  // namespace
}  // namespace winnow::vk
