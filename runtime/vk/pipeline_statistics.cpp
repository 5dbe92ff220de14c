// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/pipeline_statistics.h"

#include <fmt/format.h>

#include <cstdlib>
#include <vector>

namespace winnow::vk {

bool wants_pipeline_statistics() { return std::getenv("WINNOW_PIPELINE_STATISTICS") != nullptr; }

std::string pipeline_statistics(VkDevice device, VkPipeline pipeline, const std::string& name) {
    auto which = make_struct<VkPipelineExecutableInfoKHR>(VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR);
    which.pipeline = pipeline;  // a compute pipeline has one executable, number 0
    std::uint32_t n = 0;
    if (vkGetPipelineExecutableStatisticsKHR(device, &which, &n, nullptr) != VK_SUCCESS) return {};
    std::vector<VkPipelineExecutableStatisticKHR> all(
        n, make_struct<VkPipelineExecutableStatisticKHR>(VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR));
    if (vkGetPipelineExecutableStatisticsKHR(device, &which, &n, all.data()) != VK_SUCCESS || n == 0) return {};
    std::string text = name + ":";
    for (const auto& s : all)
        text += s.format == VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_FLOAT64_KHR
                    ? fmt::format(" {} {:.1f};", s.name, s.value.f64)
                    : fmt::format(" {} {};", s.name, s.value.u64);
    return text;
}

}  // namespace winnow::vk
