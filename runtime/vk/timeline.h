// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

#include "runtime/vk/vulkan.h"

namespace winnow::vk {

class Device;
class Recorder;

/// Point on the queue's timeline; 0 is always reached.
using Ticket = std::uint64_t;

/// Orders submissions on the device's queue by one timeline semaphore.
class Timeline {
public:
    explicit Timeline(Device& device);
    ~Timeline();  ///< waits for all submitted work
    Timeline(const Timeline&) = delete;
    Timeline& operator=(const Timeline&) = delete;

    /// Host writes made before this call are visible to the work. @throws Error(kDeviceLost).
    Ticket submit(const Recorder& recorder);
    /// Blocks until the work is done. @throws Error(kDeviceLost) naming the last recording when the device is gone.
    void wait(Ticket ticket) const;
    Ticket last_submitted() const { return last_; }

private:
    void check(VkResult result, const char* call) const;

    Device& device_;
    VkSemaphore semaphore_ = VK_NULL_HANDLE;
    Ticket last_ = 0;
    std::string last_name_;  // of the recorder last submitted, for error texts
};

/// Records with `record`, submits, waits: for set-up and tests, never per token.
template <typename Record>
void run_once(Device& device, Record&& record);

}  // namespace winnow::vk

#include "runtime/vk/run_once.inl"
