// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "runtime/vk/vulkan.h"

namespace winnow::vk {

class Device;

/// Bytes of a texel, where shaders read a buffer as texels: four words.
constexpr std::uint64_t kTexelBytes = 16;

enum class BufferUse {
    kDevice,    ///< read and written by shaders; not visible to the host unless memory is unified
    kUpload,    ///< host writes, device copies from it
    kReadback,  ///< device writes, host reads (cached where possible)
    kShared,    ///< small; host and shaders both read and write (coherent)
};

/// A VkBuffer with its own memory. Move-only; must outlive the work that uses it.
class Buffer {
public:
    Buffer() = default;
    /// @throws Error(kOutOfMemory) naming the buffer, its size and the limit when it does not fit.
    Buffer(Device& device, std::string name, std::uint64_t bytes, BufferUse use);
    ~Buffer();
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    VkBuffer handle() const { return buffer_; }
    std::uint64_t bytes() const { return bytes_; }
    const std::string& name() const { return name_; }
    explicit operator bool() const { return buffer_ != VK_NULL_HANDLE; }
    /// Host address (persistently mapped), or nullptr for a kDevice buffer without host access.
    void* mapped() const { return mapped_; }
    template <typename T>
    T* mapped_as() const {
        return static_cast<T*>(mapped_);
    }
    /// The bytes [offset, offset + bytes), rounded up to whole texels, as texels of four words; lives as long as the
    /// buffer.
    VkBufferView texels(std::uint64_t offset, std::uint64_t bytes) const;

private:
    void create(BufferUse use);
    void release() noexcept;

    Device* device_ = nullptr;
    std::string name_;
    std::uint64_t bytes_ = 0;
    std::uint64_t allocated_bytes_ = 0;
    VkBuffer buffer_ = VK_NULL_HANDLE;
    VkDeviceMemory memory_ = VK_NULL_HANDLE;
    void* mapped_ = nullptr;
    mutable std::map<std::pair<std::uint64_t, std::uint64_t>, VkBufferView> texels_;  ///< by offset and bytes
};

/// A byte range of a buffer, as a descriptor sees it. `bytes` 0 means up to the end of the buffer.
struct BufferRange {
    BufferRange() = default;
    BufferRange(const Buffer& whole) : buffer(&whole), bytes(whole.bytes()) {}  // NOLINT: implicit by design
    BufferRange(const Buffer& b, std::uint64_t offset_bytes, std::uint64_t range_bytes)
        : buffer(&b), offset(offset_bytes), bytes(range_bytes) {}
    const Buffer* buffer = nullptr;
    std::uint64_t offset = 0;  ///< multiple of minStorageBufferOffsetAlignment
    std::uint64_t bytes = 0;
};

/// Bytes of the range, 0 resolved. @throws Error(kInternal) when it does not lie within its buffer.
std::uint64_t resolved_bytes(const BufferRange& range);

}  // namespace winnow::vk
