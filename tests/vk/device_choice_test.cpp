// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "winnow/device.h"
#include "winnow/error.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

std::vector<DeviceInfo> make_devices() {
    const auto device = [](std::uint32_t index, const char* name, DeviceType type, std::uint64_t gib) {
        DeviceInfo info;
        info.index = index;
        info.name = name;
        info.type = type;
        info.memory_bytes = gib * kGiB;
        return info;
    };
    return {device(0, "llvmpipe (LLVM 15)", DeviceType::kCpu, 64),
            device(1, "Integrated Graphics 770", DeviceType::kIntegrated, 32),
            device(2, "GeForce Small", DeviceType::kDiscrete, 8), device(3, "GeForce Large", DeviceType::kDiscrete, 24),
            device(4, "Virtio GPU", DeviceType::kVirtual, 128)};
}

std::string refusal(const std::vector<DeviceInfo>& devices, const std::string& select) {
    try {
        choose_device(devices, select);
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kNoDevice);
        return error.what();
    }
    return "";
}

TEST(ChooseDevice, PrefersDiscreteThenMemory) { EXPECT_EQ(choose_device(make_devices(), "").index, 3u); }

TEST(ChooseDevice, RanksKindsWhateverTheirMemory) {
    std::vector<DeviceInfo> devices = make_devices();
    devices.erase(devices.begin() + 2, devices.begin() + 4);
    EXPECT_EQ(choose_device(devices, "").index, 1u);
    devices.erase(devices.begin() + 1);
    EXPECT_EQ(choose_device(devices, "").index, 4u);
    devices.pop_back();
    EXPECT_EQ(choose_device(devices, "").index, 0u);
}

TEST(ChooseDevice, TakesTheLoadersOrderAmongEquals) {
    std::vector<DeviceInfo> devices = make_devices();
    devices[2].memory_bytes = devices[3].memory_bytes;
    EXPECT_EQ(choose_device(devices, "").index, 2u);
}

TEST(ChooseDevice, PassesOverUnusableOnes) {
    std::vector<DeviceInfo> devices = make_devices();
    devices[2].unusable_reason = devices[3].unusable_reason = "offers Vulkan 1.1.0, needs 1.3";
    EXPECT_EQ(choose_device(devices, "").index, 1u);
}

TEST(ChooseDevice, TakesAnIndex) {
    EXPECT_EQ(choose_device(make_devices(), "0").index, 0u);
    EXPECT_EQ(choose_device(make_devices(), "4").index, 4u);
}

TEST(ChooseDevice, TakesPartOfANameInAnyCase) {
    EXPECT_EQ(choose_device(make_devices(), "LLVM").index, 0u);
    EXPECT_EQ(choose_device(make_devices(), "geforce").index, 3u);  // the better of two
    EXPECT_EQ(choose_device(make_devices(), "e small").index, 2u);
    EXPECT_EQ(choose_device(make_devices(), "s 770").index, 1u);
}

TEST(ChooseDevice, TakesAUuidInAnyCase) {
    std::vector<DeviceInfo> devices = make_devices();
    devices[1].uuid = "6c6c766d-7069-7065-5555-494400000000";
    devices[2].uuid = "12345678-9abc-def0-1234-56789abcdef0";
    EXPECT_EQ(choose_device(devices, "12345678-9ABC-def0-1234-56789abcdef0").index, 2u);
    EXPECT_THAT(refusal(devices, "12345678"), HasSubstr("there is no Vulkan device 12345678"));
    EXPECT_THAT(refusal(devices, "12345678-9abc"), HasSubstr("UUID"));  // all of it or nothing
}

TEST(ChooseDevice, GivesAnUnusableDeviceOnlyWhenNamed) {
    std::vector<DeviceInfo> devices = make_devices();
    devices[3].unusable_reason = "lacks 16-bit storage";
    EXPECT_EQ(choose_device(devices, "geforce").index, 2u);
    EXPECT_EQ(choose_device(devices, "large").index, 3u);
    EXPECT_EQ(choose_device(devices, "3").index, 3u);
}

TEST(ChooseDevice, SaysWhatThereIs) {
    EXPECT_THAT(refusal(make_devices(), "9"), HasSubstr("3: GeForce Large"));
    EXPECT_THAT(refusal(make_devices(), "radeon"), HasSubstr("'radeon'"));
    EXPECT_THAT(refusal({}, ""), HasSubstr("none"));
    std::vector<DeviceInfo> one(1, make_devices()[0]);
    one[0].unusable_reason = "lacks timeline semaphores";
    EXPECT_THAT(refusal(one, ""), HasSubstr("lacks timeline semaphores"));
}

}  // namespace
}  // namespace winnow
