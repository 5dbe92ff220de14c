// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <string>

#include "runtime/vk/vulkan.h"

namespace winnow::vk {

class Device;

/// The driver's compiled pipelines on disk: ${XDG_CACHE_HOME:-~/.cache}/winnow/<uuid>-<driver>.bin with a
/// header and an xxHash checksum. Every failure to read or write is a miss, never an error, and problem() tells of a
/// folder that cannot be written; WINNOW_NO_CACHE=1 turns the file off.
class PipelineCache {
public:
    explicit PipelineCache(Device& device);
    ~PipelineCache();  ///< saves when something was added
    PipelineCache(const PipelineCache&) = delete;
    PipelineCache& operator=(const PipelineCache&) = delete;
    VkPipelineCache handle() const { return cache_; }
    bool hit() const { return hit_; }  ///< a valid file was found at the start
    const std::filesystem::path& path() const { return path_; }
    /// Empty, or one line on why nothing can be kept at path() and what to do.
    const std::string& problem() const { return problem_; }
    void save() noexcept;

private:
    Device& device_;
    VkPipelineCache cache_ = VK_NULL_HANDLE;
    std::filesystem::path path_;
    std::string problem_;
    bool hit_ = false;
    std::size_t loaded_bytes_ = 0;
};

}  // namespace winnow::vk
