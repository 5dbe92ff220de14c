// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/buffer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/vk/device.h"
#include "runtime/vk/memory_type.h"

namespace winnow::vk {
namespace {

// Shaders read 16-byte words and fills write 4-byte words: room for the last one.
constexpr std::uint64_t kRounding = kTexelBytes;

double megabytes(std::uint64_t bytes) { return static_cast<double>(bytes) * 1e-6; }

}  // namespace

Buffer::Buffer(Device& device, std::string name, std::uint64_t bytes, BufferUse use)
    : device_(&device), name_(std::move(name)), bytes_(bytes) {
    if (bytes == 0) throw Error(ErrorCode::kInternal, fmt::format("buffer '{}' has no bytes", name_));
    const std::uint64_t limit = device.limits().max_allocation_bytes;
    if (bytes > limit - std::min(limit, kRounding)) {
        throw Error(ErrorCode::kOutOfMemory,
                    fmt::format("buffer '{}' needs {:.1f} MB; device '{}' allocates at most {:.1f} MB "
                                "in one piece: use a smaller -c or -ub, or another device",
                                name_, megabytes(bytes), device.info().name, megabytes(limit)));
    }
    try {
        create(use);
    } catch (...) {
        release();
        throw;
    }
}

void Buffer::create(BufferUse use) {
    auto create = make_struct<VkBufferCreateInfo>(VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO);
    create.size = (bytes_ + kRounding - 1) / kRounding * kRounding;
    create.usage =
        VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
    if (device_->features().has(Feature::kTexelLoads)) create.usage |= VK_BUFFER_USAGE_UNIFORM_TEXEL_BUFFER_BIT;
    create.sharingMode = VK_SHARING_MODE_EXCLUSIVE;
    WINNOW_VK_CHECK(vkCreateBuffer(device_->handle(), &create, nullptr, &buffer_));

    VkMemoryRequirements needs{};
    vkGetBufferMemoryRequirements(device_->handle(), buffer_, &needs);
    auto allocate = make_struct<VkMemoryAllocateInfo>(VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO);
    allocate.allocationSize = needs.size;
    VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    for (std::uint32_t type :
         memory_types_for(device_->memory_properties(), needs.memoryTypeBits, use, device_->unified_memory())) {
        allocate.memoryTypeIndex = type;
        result = vkAllocateMemory(device_->handle(), &allocate, nullptr, &memory_);
        if (result != VK_ERROR_OUT_OF_DEVICE_MEMORY && result != VK_ERROR_OUT_OF_HOST_MEMORY) break;
    }
    if (result == VK_ERROR_OUT_OF_DEVICE_MEMORY || result == VK_ERROR_OUT_OF_HOST_MEMORY) {
        throw Error(
            ErrorCode::kOutOfMemory,
            fmt::format("buffer '{}' needs {:.1f} MB, which device '{}' does not have beside the "
                        "{:.1f} MB already in use: use a smaller -c, or close what else uses it",
                        name_, megabytes(needs.size), device_->info().name, megabytes(device_->allocated_bytes())));
    }
    WINNOW_VK_CHECK(result);
    allocated_bytes_ = needs.size;
    device_->count_allocation(static_cast<std::int64_t>(allocated_bytes_));
    WINNOW_VK_CHECK(vkBindBufferMemory(device_->handle(), buffer_, memory_, 0));
    device_->set_name(VK_OBJECT_TYPE_BUFFER, reinterpret_cast<std::uint64_t>(buffer_), name_);

    const VkMemoryPropertyFlags flags =
        device_->memory_properties().memoryTypes[allocate.memoryTypeIndex].propertyFlags;
    constexpr VkMemoryPropertyFlags kMapped =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    const bool wants_host = use != BufferUse::kDevice || device_->unified_memory();
    if (wants_host && (flags & kMapped) == kMapped) {
        WINNOW_VK_CHECK(vkMapMemory(device_->handle(), memory_, 0, VK_WHOLE_SIZE, 0, &mapped_));
    }
}

VkBufferView Buffer::texels(std::uint64_t offset, std::uint64_t bytes) const {
    VkBufferView& view = texels_[{offset, bytes}];
    if (view != VK_NULL_HANDLE) return view;
    auto create = make_struct<VkBufferViewCreateInfo>(VK_STRUCTURE_TYPE_BUFFER_VIEW_CREATE_INFO);
    create.buffer = buffer_;
    create.format = VK_FORMAT_R32G32B32A32_UINT;
    create.offset = offset;
    create.range = (bytes + kTexelBytes - 1) / kTexelBytes * kTexelBytes;
    WINNOW_VK_CHECK(vkCreateBufferView(device_->handle(), &create, nullptr, &view));
    return view;
}

void Buffer::release() noexcept {
    if (device_ == nullptr) return;
    for (const auto& [range, view] : texels_) vkDestroyBufferView(device_->handle(), view, nullptr);
    texels_.clear();
    vkDestroyBuffer(device_->handle(), buffer_, nullptr);
    vkFreeMemory(device_->handle(), memory_, nullptr);  // unmaps too
    if (allocated_bytes_ != 0) device_->count_allocation(-static_cast<std::int64_t>(allocated_bytes_));
    device_ = nullptr;
    buffer_ = VK_NULL_HANDLE;
    memory_ = VK_NULL_HANDLE;
    mapped_ = nullptr;
    bytes_ = allocated_bytes_ = 0;
}

Buffer::~Buffer() { release(); }

Buffer::Buffer(Buffer&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      name_(std::move(other.name_)),
      bytes_(std::exchange(other.bytes_, 0)),
      allocated_bytes_(std::exchange(other.allocated_bytes_, 0)),
      buffer_(std::exchange(other.buffer_, VK_NULL_HANDLE)),
      memory_(std::exchange(other.memory_, VK_NULL_HANDLE)),
      mapped_(std::exchange(other.mapped_, nullptr)),
      texels_(std::exchange(other.texels_, {})) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    release();
    device_ = std::exchange(other.device_, nullptr);
    name_ = std::move(other.name_);
    bytes_ = std::exchange(other.bytes_, 0);
    allocated_bytes_ = std::exchange(other.allocated_bytes_, 0);
    buffer_ = std::exchange(other.buffer_, VK_NULL_HANDLE);
    memory_ = std::exchange(other.memory_, VK_NULL_HANDLE);
    mapped_ = std::exchange(other.mapped_, nullptr);
    texels_ = std::exchange(other.texels_, {});
    return *this;
}

std::uint64_t resolved_bytes(const BufferRange& range) {
    if (range.buffer == nullptr || !*range.buffer) {
        throw Error(ErrorCode::kInternal, "range of a buffer that does not exist");
    }
    const std::uint64_t whole = range.buffer->bytes();
    const std::uint64_t bytes = range.bytes != 0 ? range.bytes : whole - std::min(whole, range.offset);
    if (bytes == 0 || range.offset > whole || bytes > whole - range.offset) {
        throw Error(ErrorCode::kInternal, fmt::format("range [{}, +{}) is outside buffer '{}' of {} bytes",
                                                      range.offset, bytes, range.buffer->name(), whole));
    }
    return bytes;
}

}  // namespace winnow::vk
