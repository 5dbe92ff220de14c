// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/device.h"

#include <gmock/gmock.h>

#include <cstdio>
#include <cstdlib>

#include "runtime/vk/device_query.h"
#include "tests/support/gpu_fixture.h"
#include "winnow/error.h"

namespace winnow::vk {
namespace {

using ::testing::HasSubstr;

class DeviceTest : public test::GpuTest {};

TEST_F(DeviceTest, IsListed) {
    const auto devices = list_devices();
    const DeviceInfo& mine = device().info();
    ASSERT_LT(mine.index, devices.size());
    EXPECT_EQ(devices[mine.index].name, mine.name);
    EXPECT_EQ(devices[mine.index].driver, mine.driver);
    EXPECT_EQ(devices[mine.index].unusable_reason, "");
    EXPECT_GT(mine.memory_bytes, 0u);
    EXPECT_GE(mine.api_version, VK_API_VERSION_1_3);
}

TEST_F(DeviceTest, HasPlausibleLimits) {
    const DeviceLimits& limits = device().limits();
    EXPECT_GE(limits.max_storage_buffer_range, std::uint64_t{1} << 27);
    EXPECT_GE(limits.max_allocation_bytes, std::uint64_t{1} << 30);
    EXPECT_GE(limits.max_workgroup_invocations, 128u);
    EXPECT_GE(limits.max_workgroup_size[0], 128u);
    EXPECT_GE(limits.max_push_constant_bytes, 128u);
    EXPECT_GE(limits.max_workgroup_count_x, 65535u);
    EXPECT_GE(limits.max_workgroup_count_z, 65535u);
    EXPECT_LE(limits.min_subgroup_size, limits.subgroup_size);
    EXPECT_LE(limits.subgroup_size, limits.max_subgroup_size);
    EXPECT_EQ(device().info().subgroup_size, limits.subgroup_size);
    EXPECT_EQ(device().features().has(Feature::kTimestamps), limits.timestamp_valid_bits > 0);
}

TEST_F(DeviceTest, SoftwareDriversReadTexels) {
    if (device().info().name.find("llvmpipe") == std::string::npos) GTEST_SKIP() << "a GPU";
    const test::ScopedEnv without("WINNOW_NO_TEXELS", "1");
    DeviceOptions options;
    options.select = std::to_string(device().info().index);
    EXPECT_FALSE(Device::open(options)->features().has(Feature::kTexelLoads));
    const test::ScopedEnv with("WINNOW_NO_TEXELS", nullptr);
    EXPECT_TRUE(Device::open(options)->features().has(Feature::kTexelLoads));
}

TEST(SubgroupSizeTest, IsTheDevicesOwnOrTheNearestThatWorks) {
    for (const std::uint32_t own : {8u, 16u, 32u, 64u}) EXPECT_EQ(usable_subgroup_size(own, 4, 128, true), own);
    EXPECT_EQ(usable_subgroup_size(32, 32, 32, false), 32u);
    EXPECT_EQ(usable_subgroup_size(4, 4, 4, false), 0u);
    EXPECT_EQ(usable_subgroup_size(4, 4, 4, true), 0u);
    EXPECT_EQ(usable_subgroup_size(4, 4, 16, true), 8u);
    EXPECT_EQ(usable_subgroup_size(4, 4, 16, false), 0u);
    EXPECT_EQ(usable_subgroup_size(128, 64, 128, true), 64u);
    EXPECT_EQ(usable_subgroup_size(128, 128, 128, true), 0u);
}

// lavapipe in vectors of 128 bits is a device with subgroups of 4 that it cannot change. It reads the variable once, so
// in a new process.
TEST(DeviceDeathTest, RefusesSmallSubgroups) {
    DeviceInfo software;
    for (const DeviceInfo& d : list_devices())
        if (d.type == DeviceType::kCpu && d.name.find("llvmpipe") != std::string::npos) software = d;
    if (software.name.empty()) GTEST_SKIP() << "no software driver";
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const auto open = [&] {
        setenv("LP_NATIVE_VECTOR_WIDTH", "128", 1);
        DeviceOptions options;
        options.select = "llvmpipe";
        try {
            Device::open(options);
        } catch (const Error& error) {
            std::fputs(error.what(), stderr);
            std::_Exit(static_cast<int>(error.code()));
        }
        std::_Exit(0);
    };
    EXPECT_EXIT(open(), ::testing::ExitedWithCode(static_cast<int>(ErrorCode::kUnsupported)),
                "has subgroups of 4, needs 8 to 64");
}

TEST_F(DeviceTest, TwoMayBeOpen) {
    DeviceOptions options;
    options.select = std::to_string(device().info().index);
    const auto other = Device::open(options);  // without validation, beside one with it
    const Buffer buffer(*other, "theirs", 64, BufferUse::kShared);
    EXPECT_EQ(other->n_validation_messages(), 0u);
    EXPECT_FALSE(other->validation_enabled());
    EXPECT_GT(other->allocated_bytes(), 0u);
}

TEST_F(DeviceTest, EnvironmentChooses) {
    const test::ScopedEnv variable("WINNOW_DEVICE", "no device is called this");
    try {
        Device::open({});
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kNoDevice);
        EXPECT_THAT(error.what(), HasSubstr("no device is called this"));
        EXPECT_THAT(error.what(), HasSubstr(device().info().name));
    }
    DeviceOptions options;
    options.select = device().info().name;  // an explicit choice outranks the variable
    EXPECT_EQ(Device::open(options)->info().index, device().info().index);
}

TEST_F(DeviceTest, KeepsValidationMessages) {
    if (!test::wants_validation()) GTEST_SKIP() << "WINNOW_TEST_VALIDATION=0";
    DeviceOptions options;
    options.validation = true;
    const auto other = Device::open(options);
    // A buffer of no bytes is wrong by VUID-VkBufferCreateInfo-size-00912.
    VkBufferCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
    create.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT;
    VkBuffer buffer = VK_NULL_HANDLE;
    vkCreateBuffer(other->handle(), &create, nullptr, &buffer);
    vkDestroyBuffer(other->handle(), buffer, nullptr);
    ASSERT_GE(other->n_validation_messages(), 1u);
    EXPECT_THAT(other->validation_messages()[0], HasSubstr("VUID-VkBufferCreateInfo-size-00912"));
}

// The layer names them while the device closes, when only a log of its own is left to hear it.
TEST_F(DeviceTest, ReportsWhatWasNeverDestroyed) {
    if (!test::wants_validation()) GTEST_SKIP() << "WINNOW_TEST_VALIDATION=0";
    const test::ValidationLog log;
    auto other = Device::open(log.device_options());
    VkBufferCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
    create.size = 64;
    create.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT;
    VkBuffer buffer = VK_NULL_HANDLE;
    vkCreateBuffer(other->handle(), &create, nullptr, &buffer);
    EXPECT_EQ(log.messages().size(), 0u);
    other.reset();
    ASSERT_GE(log.messages().size(), 1u);
    EXPECT_THAT(log.messages()[0], HasSubstr("VUID-vkDestroyDevice-device-00378"));
}

TEST(Check, NamesTheCall) {
    EXPECT_NO_THROW(check(VK_SUCCESS, "vkCall()", "a/b.cpp", 7));
    EXPECT_NO_THROW(check(VK_INCOMPLETE, "vkCall()", "a/b.cpp", 7));
    const auto code_of = [](VkResult result) {
        try {
            check(result, "vkCall()", "a/b.cpp", 7);
        } catch (const Error& error) {
            EXPECT_THAT(error.what(), HasSubstr("vkCall() (b.cpp:7)"));
            EXPECT_THAT(error.what(), HasSubstr(result_name(result)));
            return error.code();
        }
        return ErrorCode::kIo;
    };
    EXPECT_EQ(code_of(VK_ERROR_DEVICE_LOST), ErrorCode::kDeviceLost);
    EXPECT_EQ(code_of(VK_ERROR_OUT_OF_DEVICE_MEMORY), ErrorCode::kOutOfMemory);
    EXPECT_EQ(code_of(VK_ERROR_INITIALIZATION_FAILED), ErrorCode::kInternal);
}

}  // namespace
}  // namespace winnow::vk
