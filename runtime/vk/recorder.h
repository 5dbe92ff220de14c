// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "runtime/vk/buffer.h"
#include "runtime/vk/pipeline.h"

namespace winnow::vk {

class Device;
class GpuTimer;

/// Records one command buffer. Stages call dispatch() only; barriers are placed by the plan that owns
/// the order. Keeps counts so that a plan can say how many dependent dispatches it has.
class Recorder {
public:
    enum class Reuse { kOnce, kReplay };  ///< kReplay: SIMULTANEOUS_USE, may be queued several times
    Recorder(Device& device, std::string name, Reuse reuse = Reuse::kOnce);
    ~Recorder();
    Recorder(Recorder&& other) noexcept;
    Recorder& operator=(Recorder&&) = delete;
    Recorder(const Recorder&) = delete;
    Recorder& operator=(const Recorder&) = delete;

    void begin();
    void end();
    VkCommandBuffer handle() const { return command_; }
    const std::string& name() const { return name_; }

    /// Binds the pipeline, pushes `buffers` to bindings 0.. and `push` as push constants, dispatches.
    /// Asserts that the counts match the pipeline.
    void dispatch(const ComputePipeline& pipeline, std::span<const BufferRange> buffers,
                  std::span<const std::byte> push, std::uint32_t groups_x, std::uint32_t groups_y = 1,
                  std::uint32_t groups_z = 1);
    template <typename Push>
    void dispatch(const ComputePipeline& pipeline, std::initializer_list<BufferRange> buffers, const Push& push,
                  std::uint32_t groups_x, std::uint32_t groups_y = 1, std::uint32_t groups_z = 1) {
        dispatch(pipeline, std::span<const BufferRange>(buffers.begin(), buffers.size()),
                 std::as_bytes(std::span<const Push>(&push, 1)), groups_x, groups_y, groups_z);
    }

    /// Compute writes before it are visible to compute reads and writes after it.
    void barrier();
    /// All writes (compute, transfer, host) before it are visible to everything after it.
    void full_barrier();
    void fill(const BufferRange& range, std::uint32_t word);
    void copy(const BufferRange& from, const BufferRange& to);
    /// Writes a timestamp; see GpuTimer. No-op when `timer` is null.
    void timestamp(GpuTimer* timer, const std::string& label);

    std::uint32_t n_dispatches() const { return n_dispatches_; }
    std::uint32_t n_barriers() const { return n_barriers_; }

private:
    Device* device_;
    std::string name_;
    Reuse reuse_;
    VkCommandPool pool_ = VK_NULL_HANDLE;
    VkCommandBuffer command_ = VK_NULL_HANDLE;
    std::uint32_t n_dispatches_ = 0;
    std::uint32_t n_barriers_ = 0;
};

}  // namespace winnow::vk
