// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "runtime/vk/vulkan.h"

namespace winnow::vk {

/// What a driver tells of its machine code (VK_KHR_pipeline_executable_properties): registers, bytes, spills. Asked for
/// with the variable WINNOW_PIPELINE_STATISTICS, which makes every pipeline print a line to standard error; the cache
/// of pipelines is then left aside.
bool wants_pipeline_statistics();
/// A line; empty where the driver tells nothing.
std::string pipeline_statistics(VkDevice device, VkPipeline pipeline, const std::string& name);

}  // namespace winnow::vk
