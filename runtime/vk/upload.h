// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/vk/buffer.h"
#include "runtime/vk/timeline.h"

namespace winnow::vk {

/// Copies host bytes to device buffers through a ring of staging buffers, so that reading and repacking
/// the next piece overlaps the copy of the last. On unified memory it writes in place.
class Uploader {
public:
    explicit Uploader(Device& device, std::uint64_t staging_bytes = 16u << 20);
    ~Uploader();  ///< waits
    Uploader(const Uploader&) = delete;
    Uploader& operator=(const Uploader&) = delete;

    /// Asks `fill` for the bytes of [offset, offset+piece) of the range in pieces, in order.
    using Fill = std::function<void(std::uint64_t offset, std::span<std::byte> piece)>;
    void upload(const BufferRange& to, const Fill& fill);
    void upload(const BufferRange& to, std::span<const std::byte> bytes);
    void finish();  ///< waits until everything has arrived

private:
    struct Impl;
    Impl* impl_;
};

/// Reads a range back; waits. For set-up, tests and logits output.
std::vector<std::byte> read_back(Device& device, const BufferRange& from);
template <typename T>
std::vector<T> read_back_as(Device& device, const BufferRange& from) {
    const std::vector<std::byte> bytes = read_back(device, from);
    std::vector<T> values(bytes.size() / sizeof(T));
    std::copy_n(bytes.data(), values.size() * sizeof(T), reinterpret_cast<std::byte*>(values.data()));
    return values;
}

}  // namespace winnow::vk
