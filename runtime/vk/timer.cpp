// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/timer.h"

#include <fmt/format.h>

#include "runtime/vk/device.h"

namespace winnow::vk {

GpuTimer::GpuTimer(Device& device, std::uint32_t capacity) : device_(device), capacity_(capacity) {
    if (!device.features().has(Feature::kTimestamps)) return;  // no pool: nothing is recorded
    auto create = make_struct<VkQueryPoolCreateInfo>(VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO);
    create.queryType = VK_QUERY_TYPE_TIMESTAMP;
    create.queryCount = capacity;
    WINNOW_VK_CHECK(vkCreateQueryPool(device.handle(), &create, nullptr, &pool_));
}

GpuTimer::~GpuTimer() { vkDestroyQueryPool(device_.handle(), pool_, nullptr); }

std::uint32_t GpuTimer::add(const std::string& label) {
    if (labels_.size() == capacity_) {
        throw Error(ErrorCode::kInternal, fmt::format("timer of {} timestamps is full at '{}'", capacity_, label));
    }
    labels_.push_back(label);
    return static_cast<std::uint32_t>(labels_.size() - 1);
}

void GpuTimer::reset() { labels_.clear(); }

std::vector<GpuTimer::Interval> GpuTimer::intervals() const {
    if (labels_.size() < 2) return {};
    std::vector<std::uint64_t> ticks(labels_.size());
    WINNOW_VK_CHECK(vkGetQueryPoolResults(device_.handle(), pool_, 0, static_cast<std::uint32_t>(ticks.size()),
                                          ticks.size() * sizeof(ticks[0]), ticks.data(), sizeof(ticks[0]),
                                          VK_QUERY_RESULT_64_BIT));
    const std::uint32_t bits = device_.limits().timestamp_valid_bits;
    const std::uint64_t mask = bits >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
    std::vector<Interval> result;
    for (std::size_t i = 1; i < ticks.size(); ++i) {
        const std::uint64_t elapsed = (ticks[i] - ticks[i - 1]) & mask;  // right across a wrap
        result.push_back({labels_[i], static_cast<double>(elapsed) * device_.limits().timestamp_period_ns * 1e-3});
    }
    return result;
}

double GpuTimer::total_microseconds() const {
    double total = 0;
    for (const Interval& interval : intervals()) total += interval.microseconds;
    return total;
}

}  // namespace winnow::vk
