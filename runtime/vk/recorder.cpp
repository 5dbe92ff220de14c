// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/recorder.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "runtime/vk/device.h"
#include "runtime/vk/timer.h"

namespace winnow::vk {
namespace {

constexpr std::size_t kMaxBuffers = 32;  // what every push-descriptor implementation allows

void memory_barrier(VkCommandBuffer command, VkPipelineStageFlags2 from_stage, VkAccessFlags2 from,
                    VkPipelineStageFlags2 to_stage, VkAccessFlags2 to) {
    auto barrier = make_struct<VkMemoryBarrier2>(VK_STRUCTURE_TYPE_MEMORY_BARRIER_2);
    barrier.srcStageMask = from_stage;
    barrier.srcAccessMask = from;
    barrier.dstStageMask = to_stage;
    barrier.dstAccessMask = to;
    auto dependency = make_struct<VkDependencyInfo>(VK_STRUCTURE_TYPE_DEPENDENCY_INFO);
    dependency.memoryBarrierCount = 1;
    dependency.pMemoryBarriers = &barrier;
    vkCmdPipelineBarrier2(command, &dependency);
}

}  // namespace

Recorder::Recorder(Device& device, std::string name, Reuse reuse)
    : device_(&device), name_(std::move(name)), reuse_(reuse) {
    auto pool = make_struct<VkCommandPoolCreateInfo>(VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO);
    pool.queueFamilyIndex = device.queue_family();
    WINNOW_VK_CHECK(vkCreateCommandPool(device.handle(), &pool, nullptr, &pool_));
    auto allocate = make_struct<VkCommandBufferAllocateInfo>(VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO);
    allocate.commandPool = pool_;
    allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    allocate.commandBufferCount = 1;
    const VkResult result = vkAllocateCommandBuffers(device.handle(), &allocate, &command_);
    if (result != VK_SUCCESS) vkDestroyCommandPool(device.handle(), pool_, nullptr);
    WINNOW_VK_CHECK(result);
    device.set_name(VK_OBJECT_TYPE_COMMAND_BUFFER, reinterpret_cast<std::uint64_t>(command_), name_);
}

Recorder::~Recorder() {
    if (pool_ != VK_NULL_HANDLE) vkDestroyCommandPool(device_->handle(), pool_, nullptr);
}

Recorder::Recorder(Recorder&& other) noexcept
    : device_(other.device_),
      name_(std::move(other.name_)),
      reuse_(other.reuse_),
      pool_(std::exchange(other.pool_, VK_NULL_HANDLE)),
      command_(std::exchange(other.command_, VK_NULL_HANDLE)),
      n_dispatches_(other.n_dispatches_),
      n_barriers_(other.n_barriers_) {}

void Recorder::begin() {
    WINNOW_VK_CHECK(vkResetCommandPool(device_->handle(), pool_, 0));
    auto begin = make_struct<VkCommandBufferBeginInfo>(VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO);
    begin.flags = reuse_ == Reuse::kReplay ? VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT
                                           : VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
    WINNOW_VK_CHECK(vkBeginCommandBuffer(command_, &begin));
    n_dispatches_ = 0;
    n_barriers_ = 0;
}

void Recorder::end() { WINNOW_VK_CHECK(vkEndCommandBuffer(command_)); }

void Recorder::dispatch(const ComputePipeline& pipeline, std::span<const BufferRange> buffers,
                        std::span<const std::byte> push, std::uint32_t groups_x, std::uint32_t groups_y,
                        std::uint32_t groups_z) {
    const DeviceLimits& limits = device_->limits();
    const auto fail = [&](const std::string& why) {
        return Error(ErrorCode::kInternal, fmt::format("dispatch of {}: {}", pipeline.name(), why));
    };
    if (buffers.size() != pipeline.n_buffers() || buffers.size() > kMaxBuffers) {
        throw fail(fmt::format("{} buffers given, {} wanted", buffers.size(), pipeline.n_buffers()));
    }
    if (push.size() != pipeline.push_bytes()) {
        throw fail(fmt::format("{} bytes of push constants given, {} wanted", push.size(), pipeline.push_bytes()));
    }
    if (groups_x == 0 || groups_y == 0 || groups_z == 0 || groups_x > limits.max_workgroup_count_x ||
        groups_y > limits.max_workgroup_count_y || groups_z > limits.max_workgroup_count_z) {
        throw fail(fmt::format("{} x {} x {} groups; the device runs 1 to {} x {} x {}", groups_x, groups_y, groups_z,
                               limits.max_workgroup_count_x, limits.max_workgroup_count_y,
                               limits.max_workgroup_count_z));
    }

    std::array<VkDescriptorBufferInfo, kMaxBuffers> infos;
    std::array<VkBufferView, kMaxBuffers> views;
    std::array<VkWriteDescriptorSet, kMaxBuffers> writes;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
        const BufferRange& range = buffers[i];
        const std::uint64_t bytes = resolved_bytes(range);
        if (bytes > limits.max_storage_buffer_range) {
            throw fail(fmt::format("binding {} is {:.1f} MB of '{}'; the device binds at most {:.1f} MB", i,
                                   static_cast<double>(bytes) * 1e-6, range.buffer->name(),
                                   static_cast<double>(limits.max_storage_buffer_range) * 1e-6));
        }
        if (range.offset % limits.storage_buffer_alignment != 0) {
            throw fail(fmt::format("binding {} starts at byte {} of '{}', not a multiple of {}", i, range.offset,
                                   range.buffer->name(), limits.storage_buffer_alignment));
        }
        infos[i] = {range.buffer->handle(), range.offset, bytes};
        writes[i] = make_struct<VkWriteDescriptorSet>(VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET);
        writes[i].dstBinding = static_cast<std::uint32_t>(i);
        writes[i].descriptorCount = 1;
        if (pipeline.reads_texels(static_cast<std::uint32_t>(i))) {
            views[i] = range.buffer->texels(range.offset, bytes);
            writes[i].descriptorType = VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER;
            writes[i].pTexelBufferView = &views[i];
        } else {
            writes[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
            writes[i].pBufferInfo = &infos[i];
        }
    }
    vkCmdBindPipeline(command_, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.handle());
    if (!buffers.empty()) {
        vkCmdPushDescriptorSetKHR(command_, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.layout(), 0,
                                  static_cast<std::uint32_t>(buffers.size()), writes.data());
    }
    if (!push.empty()) {
        vkCmdPushConstants(command_, pipeline.layout(), VK_SHADER_STAGE_COMPUTE_BIT, 0,
                           static_cast<std::uint32_t>(push.size()), push.data());
    }
    vkCmdDispatch(command_, groups_x, groups_y, groups_z);
    ++n_dispatches_;
}

void Recorder::barrier() {
    VkAccessFlags2 to = VK_ACCESS_2_SHADER_STORAGE_READ_BIT | VK_ACCESS_2_SHADER_STORAGE_WRITE_BIT;
    if (device_->features().has(Feature::kTexelLoads)) to |= VK_ACCESS_2_SHADER_SAMPLED_READ_BIT;
    memory_barrier(command_, VK_PIPELINE_STAGE_2_COMPUTE_SHADER_BIT, VK_ACCESS_2_SHADER_STORAGE_WRITE_BIT,
                   VK_PIPELINE_STAGE_2_COMPUTE_SHADER_BIT, to);
    ++n_barriers_;
}

void Recorder::full_barrier() {
    constexpr VkPipelineStageFlags2 kAll = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT | VK_PIPELINE_STAGE_2_HOST_BIT;
    memory_barrier(command_, kAll, VK_ACCESS_2_MEMORY_WRITE_BIT, kAll,
                   VK_ACCESS_2_MEMORY_READ_BIT | VK_ACCESS_2_MEMORY_WRITE_BIT);
    ++n_barriers_;
}

void Recorder::fill(const BufferRange& range, std::uint32_t word) {
    const std::uint64_t bytes = resolved_bytes(range);
    const bool to_end = range.offset + bytes == range.buffer->bytes();
    if (range.offset % 4 != 0 || (bytes % 4 != 0 && !to_end)) {
        throw Error(ErrorCode::kInternal, fmt::format("fill of '{}': range [{}, +{}) is not made of 4-byte words",
                                                      range.buffer->name(), range.offset, bytes));
    }
    // A buffer's memory goes on to a whole word, so the last one may be filled.
    vkCmdFillBuffer(command_, range.buffer->handle(), range.offset, (bytes + 3) / 4 * 4, word);
}

void Recorder::copy(const BufferRange& from, const BufferRange& to) {
    const std::uint64_t bytes = resolved_bytes(from);
    if (resolved_bytes(to) < bytes) {
        throw Error(ErrorCode::kInternal,
                    fmt::format("copy of {} bytes of '{}' does not fit into {} bytes of '{}'", bytes,
                                from.buffer->name(), resolved_bytes(to), to.buffer->name()));
    }
    const VkBufferCopy region{from.offset, to.offset, bytes};
    vkCmdCopyBuffer(command_, from.buffer->handle(), to.buffer->handle(), 1, &region);
}

void Recorder::timestamp(GpuTimer* timer, const std::string& label) {
    if (timer == nullptr || timer->pool() == VK_NULL_HANDLE) return;
    const std::uint32_t query = timer->add(label);
    // In the command buffer, so that a replay starts afresh.
    if (query == 0) vkCmdResetQueryPool(command_, timer->pool(), 0, timer->capacity());
    vkCmdWriteTimestamp2(command_, VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT, timer->pool(), query);
}

}  // namespace winnow::vk
