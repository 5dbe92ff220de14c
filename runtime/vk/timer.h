// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/vk/vulkan.h"

namespace winnow::vk {

class Device;

/// Timestamp queries of one command buffer. Labels name the interval that ends at the timestamp.
class GpuTimer {
public:
    GpuTimer(Device& device, std::uint32_t capacity);
    ~GpuTimer();
    GpuTimer(const GpuTimer&) = delete;
    GpuTimer& operator=(const GpuTimer&) = delete;

    struct Interval {
        std::string label;
        double microseconds = 0;
    };
    /// Intervals between consecutive timestamps; call after the work has completed.
    std::vector<Interval> intervals() const;
    /// From the first to the last timestamp.
    double total_microseconds() const;

    // Used by Recorder.
    VkQueryPool pool() const { return pool_; }
    std::uint32_t capacity() const { return capacity_; }
    std::uint32_t add(const std::string& label);  ///< index of the query to write
    void reset();                                 ///< forgets labels; Recorder::begin side resets the queries

private:
    Device& device_;
    VkQueryPool pool_ = VK_NULL_HANDLE;
    std::uint32_t capacity_ = 0;
    std::vector<std::string> labels_;
};

}  // namespace winnow::vk
