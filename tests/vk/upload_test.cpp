// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/upload.h"

#include "tests/support/gpu_fixture.h"
#include "tests/support/random.h"

namespace winnow::vk {
namespace {

/// Parameter: whether the device must be treated as one with its own memory.
class UploaderTest : public test::GpuTest, public ::testing::WithParamInterface<bool> {
protected:
    void SetUp() override {
        test::GpuTest::SetUp();
        if (IsSkipped()) return;
        const test::ScopedEnv discrete("WINNOW_DISCRETE_MEMORY", GetParam() ? "1" : nullptr);
        const test::ScopedEnv no_cache("WINNOW_NO_CACHE", "1");
        DeviceOptions options;
        options.validation = test::wants_validation();
        own_ = Device::open(options);
    }
    void TearDown() override {
        if (own_) {
            EXPECT_EQ(own_->validation_messages(), std::vector<std::string>{});
        }
        own_.reset();
        test::GpuTest::TearDown();
    }
    std::unique_ptr<Device> own_;
};

std::vector<std::byte> random_bytes(std::size_t n) {
    test::ReplicableRng rng;
    std::vector<std::byte> bytes(n);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.bits() & 0xff);
    return bytes;
}

TEST_P(UploaderTest, DeliversManyPiecesInOrder) {
    // 1 KiB of staging: each of the ring's buffers is used many times over.
    const auto bytes = random_bytes(100 * 1024 + 12);
    const Buffer buffer(*own_, "target", bytes.size(), BufferUse::kDevice);
    Uploader uploader(*own_, 1024);
    std::uint64_t expected_offset = 0;
    uploader.upload(buffer, [&](std::uint64_t offset, std::span<std::byte> piece) {
        EXPECT_EQ(offset, expected_offset);
        expected_offset += piece.size();
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), piece.size(), piece.begin());
    });
    EXPECT_EQ(expected_offset, bytes.size());
    uploader.finish();
    EXPECT_EQ(read_back(*own_, buffer), bytes);
}

TEST_P(UploaderTest, WritesNothingOutsideItsRange) {
    const auto bytes = random_bytes(5000);
    const Buffer buffer(*own_, "target", 8192, BufferUse::kDevice);
    Uploader uploader(*own_, 512);
    uploader.upload(buffer, std::vector<std::byte>(8192, std::byte{0xaa}));
    uploader.upload({buffer, 1000, 0}, bytes);  // to the buffer's end, but only so many bytes
    uploader.finish();
    const auto got = read_back(*own_, buffer);
    for (std::size_t i = 0; i < got.size(); ++i) {
        const bool inside = i >= 1000 && i < 6000;
        ASSERT_EQ(got[i], inside ? bytes[i - 1000] : std::byte{0xaa}) << i;
    }
}

TEST_P(UploaderTest, RefusesMoreThanTheBufferHolds) {
    const Buffer buffer(*own_, "target", 64, BufferUse::kDevice);
    Uploader uploader(*own_);
    EXPECT_THROW(uploader.upload({buffer, 32, 0}, random_bytes(33)), Error);
    uploader.upload(buffer, std::span<const std::byte>{});  // nothing is fine
}

TEST_P(UploaderTest, WorkMayFollowWithoutFinish) {
    const auto bytes = random_bytes(4096);
    const Buffer from(*own_, "from", bytes.size(), BufferUse::kDevice);
    const Buffer to(*own_, "to", bytes.size(), BufferUse::kDevice);
    Uploader uploader(*own_, 1024);
    uploader.upload(from, bytes);
    run_once(*own_, [&](Recorder& recorder) { recorder.copy(from, to); });
    EXPECT_EQ(read_back(*own_, to), bytes);
}

INSTANTIATE_TEST_SUITE_P(Memory, UploaderTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Discrete" : "AsIs"; });

}  // namespace
}  // namespace winnow::vk
