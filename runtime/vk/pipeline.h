// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "runtime/vk/shader_registry.h"
#include "runtime/vk/vulkan.h"

namespace winnow::vk {

class Device;

/// A compute pipeline with its layout: one push-descriptor set of storage buffers (texel buffers where the
/// shader reads texels) at bindings 0..n_buffers-1 and one push-constant range. Move-only.
class ComputePipeline {
public:
    ComputePipeline() = default;
    /// Specialisation constant i (constant_id = i) gets spec[i] (raw 32 bits).
    /// `subgroup_size` 0 leaves the driver's choice; otherwise it is required where the device can vary it.
    /// @throws Error(kUnsupported) when the device lacks the variant's features or the group is too large.
    ComputePipeline(Device& device, const ShaderVariant& shader, std::uint32_t n_buffers, std::uint32_t push_bytes,
                    std::span<const std::uint32_t> spec, std::uint32_t subgroup_size = 0);
    ~ComputePipeline();
    ComputePipeline(ComputePipeline&& other) noexcept;
    ComputePipeline& operator=(ComputePipeline&& other) noexcept;
    ComputePipeline(const ComputePipeline&) = delete;
    ComputePipeline& operator=(const ComputePipeline&) = delete;

    VkPipeline handle() const { return pipeline_; }
    VkPipelineLayout layout() const { return layout_; }
    std::uint32_t n_buffers() const { return n_buffers_; }
    bool reads_texels(std::uint32_t binding) const { return (texel_bindings_ >> binding & 1u) != 0; }
    std::uint32_t push_bytes() const { return push_bytes_; }
    const std::string& name() const { return name_; }
    explicit operator bool() const { return pipeline_ != VK_NULL_HANDLE; }

private:
    void create_layout();
    void create_pipeline(const ShaderVariant& shader, std::span<const std::uint32_t> spec,
                         const std::array<std::uint32_t, 3>& group_size, std::uint32_t subgroup_size);
    void release() noexcept;

    Device* device_ = nullptr;
    std::string name_;
    VkDescriptorSetLayout set_layout_ = VK_NULL_HANDLE;
    VkPipelineLayout layout_ = VK_NULL_HANDLE;
    VkPipeline pipeline_ = VK_NULL_HANDLE;
    std::uint32_t n_buffers_ = 0;
    std::uint32_t texel_bindings_ = 0;  ///< bit i: binding i is a texel buffer
    std::uint32_t push_bytes_ = 0;
};

}  // namespace winnow::vk
