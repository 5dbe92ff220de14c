// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/buffer.h"

#include <gmock/gmock.h>

#include <cstring>
#include <numeric>

#include "runtime/vk/recorder.h"
#include "runtime/vk/timeline.h"
#include "tests/support/gpu_fixture.h"

namespace winnow::vk {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

class BufferTest : public test::GpuTest {};

std::vector<std::uint32_t> count_up(std::size_t n) {
    std::vector<std::uint32_t> values(n);
    std::iota(values.begin(), values.end(), 1u);
    return values;
}

TEST_F(BufferTest, ReturnsWhatWasWrittenForEveryUse) {
    const auto values = count_up(1000);
    for (BufferUse use : {BufferUse::kDevice, BufferUse::kUpload, BufferUse::kReadback, BufferUse::kShared}) {
        const Buffer buffer = make_buffer(values, "round trip", use);
        EXPECT_EQ(buffer.bytes(), 4000u);
        EXPECT_EQ(download<std::uint32_t>(buffer), values) << static_cast<int>(use);
        if (use != BufferUse::kDevice) {
            ASSERT_NE(buffer.mapped(), nullptr);
            EXPECT_EQ(buffer.mapped_as<std::uint32_t>()[999], 1000u);
        }
    }
}

TEST_F(BufferTest, IsMappedOnUnifiedMemoryOnly) {
    const Buffer buffer(device(), "device", 64, BufferUse::kDevice);
    EXPECT_EQ(buffer.mapped() != nullptr, device().unified_memory());
}

TEST_F(BufferTest, CopiesBetweenRanges) {
    const Buffer from = make_buffer(count_up(64), "from");
    const Buffer to = make_buffer(std::vector<std::uint32_t>(64, 0), "to");
    run_once(device(), [&](Recorder& recorder) { recorder.copy({from, 16, 32}, {to, 64, 32}); });
    const auto got = download<std::uint32_t>(BufferRange(to, 64, 32));
    EXPECT_EQ(got, (std::vector<std::uint32_t>{5, 6, 7, 8, 9, 10, 11, 12}));
    EXPECT_EQ(download<std::uint32_t>(BufferRange(to, 0, 64)), std::vector<std::uint32_t>(16, 0));
    EXPECT_EQ(download<std::uint32_t>(BufferRange(to, 96, 0)), std::vector<std::uint32_t>(40, 0));
}

TEST_F(BufferTest, FillsARangeAndOddTails) {
    const Buffer buffer = make_buffer(std::vector<std::uint8_t>(70, 1), "fill");
    run_once(device(), [&](Recorder& recorder) { recorder.fill({buffer, 8, 0}, 0x07070707u); });
    const auto got = download<std::uint8_t>(buffer);
    EXPECT_EQ(got[7], 1);
    EXPECT_THAT(std::vector(got.begin() + 8, got.end()), Each(7));
}

TEST_F(BufferTest, RefusesBadRanges) {
    const Buffer buffer(device(), "small", 64, BufferUse::kDevice);
    EXPECT_EQ(resolved_bytes({buffer, 16, 0}), 48u);
    EXPECT_THROW(resolved_bytes({buffer, 64, 0}), Error);
    EXPECT_THROW(resolved_bytes({buffer, 60, 8}), Error);
    EXPECT_THROW(resolved_bytes({buffer, 8, ~std::uint64_t{0}}), Error);
    EXPECT_THROW(resolved_bytes({}), Error);
    Recorder recorder(device(), "bad");
    recorder.begin();
    EXPECT_THROW(recorder.copy({buffer, 0, 64}, {buffer, 32, 0}), Error);
    EXPECT_THROW(recorder.fill({buffer, 2, 4}, 0), Error);
    EXPECT_THROW(recorder.fill({buffer, 0, 6}, 0), Error);
    recorder.end();
}

TEST_F(BufferTest, CountsAllocations) {
    const std::uint64_t bytes_before = device().allocated_bytes();
    const std::uint64_t n_before = device().n_allocations();
    {
        Buffer first(device(), "first", 1000, BufferUse::kDevice);
        EXPECT_GE(device().allocated_bytes(), bytes_before + 1000);
        EXPECT_EQ(device().n_allocations(), n_before + 1);
        Buffer second = std::move(first);
        EXPECT_FALSE(first);  // NOLINT: what a moved-from buffer is, is the point
        EXPECT_TRUE(second);
        second = Buffer(device(), "third", 10, BufferUse::kShared);
        EXPECT_EQ(second.name(), "third");
    }
    EXPECT_EQ(device().allocated_bytes(), bytes_before);
}

TEST_F(BufferTest, NamesTheBufferThatIsTooLarge) {
    try {
        const Buffer buffer(device(), "K cache layer 3", std::uint64_t{1} << 50, BufferUse::kDevice);
        FAIL() << "a petabyte was allocated";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
        EXPECT_THAT(error.what(), HasSubstr("K cache layer 3"));
        EXPECT_THAT(error.what(), HasSubstr("1125899906.8 MB"));
        EXPECT_THAT(error.what(), HasSubstr("at most"));
    }
    EXPECT_THROW(Buffer(device(), "none", ~std::uint64_t{0}, BufferUse::kDevice), Error);
    EXPECT_THROW(Buffer(device(), "empty", 0, BufferUse::kDevice), Error);
}

}  // namespace
}  // namespace winnow::vk
