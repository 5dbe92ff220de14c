// SPDX-License-Identifier: Apache-2.0
#include "tests/support/guarded_buffer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/gpu_fixture.h"

namespace winnow::test {
namespace {

constexpr std::byte kPoison{0xff};

std::size_t n_written(std::span<const std::byte> bytes) {
    return bytes.size() - static_cast<std::size_t>(std::count(bytes.begin(), bytes.end(), kPoison));
}

}  // namespace

GuardedBuffer::GuardedBuffer(vk::Device& device, const std::string& name, std::size_t bytes)
    : GuardedBuffer(device, name, std::vector<std::byte>(bytes, kPoison)) {}

GuardedBuffer::GuardedBuffer(vk::Device& device, const std::string& name, std::span<const std::byte> bytes)
    : device_(&device) {
    std::vector<std::byte> all(bytes.size() + 2 * kGuardBytes, kPoison);
    std::copy(bytes.begin(), bytes.end(), all.begin() + kGuardBytes);
    buffer_ = make_buffer(device, std::span<const std::byte>(all), name);
}

std::vector<std::byte> GuardedBuffer::bytes() const {
    const std::vector<std::byte> all = vk::read_back(*device_, buffer_);
    const std::span<const std::byte> view(all);
    EXPECT_EQ(n_written(view.first(kGuardBytes)), 0u) << "bytes written before " << buffer_.name();
    EXPECT_EQ(n_written(view.last(kGuardBytes)), 0u) << "bytes written after " << buffer_.name();
    return {all.begin() + kGuardBytes, all.end() - kGuardBytes};
}

void GuardedBuffer::expect_untouched() const {
    EXPECT_EQ(n_written(bytes()), 0u) << "bytes written of " << buffer_.name();
}

}  // namespace winnow::test
