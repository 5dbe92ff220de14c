// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "runtime/vk/buffer.h"
#include "runtime/vk/device.h"

namespace winnow::test {

/// An output of a stage between two canaries of 1 KiB: bytes 0xff, as the output itself at first, NaN as float.
class GuardedBuffer {
public:
    GuardedBuffer(vk::Device& device, const std::string& name, std::size_t bytes);
    /// Starts with these bytes: something that is read and written.
    GuardedBuffer(vk::Device& device, const std::string& name, std::span<const std::byte> bytes);

    /// What a stage binds: the bytes between the canaries.
    vk::BufferRange range() const { return {buffer_, kGuardBytes, buffer_.bytes() - 2 * kGuardBytes}; }
    /// Reads it back and expects the canaries untouched.
    std::vector<std::byte> bytes() const;
    template <typename T>
    std::vector<T> contents() const {
        const std::vector<std::byte> all = bytes();
        const auto* first = reinterpret_cast<const T*>(all.data());
        return std::vector<T>(first, first + all.size() / sizeof(T));
    }
    /// Expects that nothing has been written since it was made; not for one that started with bytes.
    void expect_untouched() const;

private:
    static constexpr std::size_t kGuardBytes = 1024;  // a multiple of any minStorageBufferOffsetAlignment
    vk::Device* device_;
    vk::Buffer buffer_;
};

}  // namespace winnow::test
