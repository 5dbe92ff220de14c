// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/pipeline.h"

#include <fmt/format.h>

#include <bit>
#include <cstdio>
#include <utility>
#include <vector>

#include "runtime/vk/device.h"
#include "runtime/vk/pipeline_cache.h"
#include "runtime/vk/pipeline_statistics.h"
#include "runtime/vk/spirv.h"

namespace winnow::vk {
namespace {

/// What drivers would report late, badly or not at all.
void check_request(const Device& device, const ShaderVariant& shader, const SpirvInfo& info, std::uint32_t n_buffers,
                   std::uint32_t push_bytes) {
    const DeviceLimits& limits = device.limits();
    if (!device.features().includes(shader.features)) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("shader {} needs {}, which device '{}' lacks", shader.name,
                                to_string(device.features().missing(shader.features)), device.info().name));
    }
    const auto& size = info.workgroup_size;
    const std::uint64_t invocations = std::uint64_t{size[0]} * size[1] * size[2];
    if (invocations == 0 || invocations > limits.max_workgroup_invocations || size[0] > limits.max_workgroup_size[0] ||
        size[1] > limits.max_workgroup_size[1] || size[2] > limits.max_workgroup_size[2]) {
        throw Error(
            ErrorCode::kUnsupported,
            fmt::format("shader {} asks for workgroups of {} x {} x {}; device '{}' runs at most "
                        "{} invocations",
                        shader.name, size[0], size[1], size[2], device.info().name, limits.max_workgroup_invocations));
    }
    if (info.shared_bytes > limits.max_shared_memory_bytes) {
        throw Error(
            ErrorCode::kUnsupported,
            fmt::format("shader {} needs {} bytes of shared memory for this model or policy; device '{}' has {}",
                        shader.name, info.shared_bytes, device.info().name, limits.max_shared_memory_bytes));
    }
    if (!info.bindings.empty() && info.bindings.back() >= n_buffers) {
        throw Error(ErrorCode::kInternal, fmt::format("shader {} reads binding {}, its pipeline has {} buffers",
                                                      shader.name, info.bindings.back(), n_buffers));
    }
    if (push_bytes > limits.max_push_constant_bytes || push_bytes % 4 != 0) {
        throw Error(ErrorCode::kInternal,
                    fmt::format("shader {}: {} bytes of push constants; a multiple of 4 up to {} is "
                                "allowed",
                                shader.name, push_bytes, limits.max_push_constant_bytes));
    }
}

}  // namespace

ComputePipeline::ComputePipeline(Device& device, const ShaderVariant& shader, std::uint32_t n_buffers,
                                 std::uint32_t push_bytes, std::span<const std::uint32_t> spec,
                                 std::uint32_t subgroup_size)
    : device_(&device), name_(shader.name), n_buffers_(n_buffers), push_bytes_(push_bytes) {
    const SpirvInfo info = inspect_spirv(shader.words, spec);
    check_request(device, shader, info, n_buffers, push_bytes);
    for (const std::uint32_t binding : info.texel_bindings) texel_bindings_ |= 1u << binding;
    try {
        create_layout();
        create_pipeline(shader, spec, info.workgroup_size, subgroup_size);
    } catch (...) {
        release();
        throw;
    }
}

void ComputePipeline::create_layout() {
    std::vector<VkDescriptorSetLayoutBinding> bindings(n_buffers_);
    for (std::uint32_t i = 0; i < n_buffers_; ++i) {
        const VkDescriptorType type =
            reads_texels(i) ? VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER : VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
        bindings[i] = {i, type, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr};
    }
    auto set = make_struct<VkDescriptorSetLayoutCreateInfo>(VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO);
    set.flags = VK_DESCRIPTOR_SET_LAYOUT_CREATE_PUSH_DESCRIPTOR_BIT_KHR;
    set.bindingCount = n_buffers_;
    set.pBindings = bindings.data();
    WINNOW_VK_CHECK(vkCreateDescriptorSetLayout(device_->handle(), &set, nullptr, &set_layout_));

    const VkPushConstantRange range{VK_SHADER_STAGE_COMPUTE_BIT, 0, push_bytes_};
    auto layout = make_struct<VkPipelineLayoutCreateInfo>(VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO);
    layout.setLayoutCount = 1;
    layout.pSetLayouts = &set_layout_;
    layout.pushConstantRangeCount = push_bytes_ != 0 ? 1 : 0;
    layout.pPushConstantRanges = &range;
    WINNOW_VK_CHECK(vkCreatePipelineLayout(device_->handle(), &layout, nullptr, &layout_));
}

void ComputePipeline::create_pipeline(const ShaderVariant& shader, std::span<const std::uint32_t> spec,
                                      const std::array<std::uint32_t, 3>& group_size, std::uint32_t subgroup_size) {
    std::vector<VkSpecializationMapEntry> entries(spec.size());
    for (std::uint32_t i = 0; i < entries.size(); ++i) entries[i] = {i, 4 * i, 4};
    VkSpecializationInfo constants{};
    constants.mapEntryCount = static_cast<std::uint32_t>(entries.size());
    constants.pMapEntries = entries.data();
    constants.dataSize = spec.size_bytes();
    constants.pData = spec.data();

    auto create = make_struct<VkComputePipelineCreateInfo>(VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO);
    create.layout = layout_;
    create.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    create.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    create.stage.pName = "main";
    create.stage.pSpecializationInfo = &constants;

    const DeviceLimits& limits = device_->limits();
    auto required = make_struct<VkPipelineShaderStageRequiredSubgroupSizeCreateInfo>(
        VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO);
    if (device_->features().has(Feature::kSubgroupSizeControl)) {
        const bool varies = limits.min_subgroup_size < limits.max_subgroup_size;
        const bool in_range = std::has_single_bit(subgroup_size) && subgroup_size >= limits.min_subgroup_size &&
                              subgroup_size <= limits.max_subgroup_size;
        // Small subgroups may be too many for a large group.
        const std::uint64_t invocations = std::uint64_t{group_size[0]} * group_size[1] * group_size[2];
        const bool fits = invocations <= std::uint64_t{subgroup_size} * limits.max_workgroup_subgroups;
        if (varies && in_range && fits) {
            required.requiredSubgroupSize = subgroup_size;
            create.stage.pNext = &required;
        }
        // Shaders take subgroup and lane from the local index; that holds only in full subgroups.
        const std::uint32_t actual = create.stage.pNext != nullptr ? subgroup_size : limits.subgroup_size;
        if (actual != 0 && group_size[0] % actual == 0) {
            create.stage.flags |= VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
        }
    }

    auto module = make_struct<VkShaderModuleCreateInfo>(VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO);
    module.codeSize = shader.words.size_bytes();
    module.pCode = shader.words.data();
    WINNOW_VK_CHECK(vkCreateShaderModule(device_->handle(), &module, nullptr, &create.stage.module));
    device_->set_name(VK_OBJECT_TYPE_SHADER_MODULE, reinterpret_cast<std::uint64_t>(create.stage.module), name_);
    const bool told = device_->tells_pipeline_statistics();
    if (told) create.flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
    const VkResult result = vkCreateComputePipelines(
        device_->handle(), told ? VK_NULL_HANDLE : device_->pipeline_cache().handle(), 1, &create, nullptr, &pipeline_);
    vkDestroyShaderModule(device_->handle(), create.stage.module, nullptr);
    WINNOW_VK_CHECK(result);
    device_->set_name(VK_OBJECT_TYPE_PIPELINE, reinterpret_cast<std::uint64_t>(pipeline_), name_);
    if (!told) return;
    const std::string text = pipeline_statistics(device_->handle(), pipeline_, name_);
    if (!text.empty()) std::fprintf(stderr, "%s\n", text.c_str());
}

void ComputePipeline::release() noexcept {
    if (device_ == nullptr) return;
    vkDestroyPipeline(device_->handle(), pipeline_, nullptr);
    vkDestroyPipelineLayout(device_->handle(), layout_, nullptr);
    vkDestroyDescriptorSetLayout(device_->handle(), set_layout_, nullptr);
    device_ = nullptr;
    pipeline_ = VK_NULL_HANDLE;
    layout_ = VK_NULL_HANDLE;
    set_layout_ = VK_NULL_HANDLE;
}

ComputePipeline::~ComputePipeline() { release(); }

ComputePipeline::ComputePipeline(ComputePipeline&& other) noexcept { *this = std::move(other); }

ComputePipeline& ComputePipeline::operator=(ComputePipeline&& other) noexcept {
    if (this == &other) return *this;
    release();
    device_ = std::exchange(other.device_, nullptr);
    name_ = std::move(other.name_);
    set_layout_ = std::exchange(other.set_layout_, VK_NULL_HANDLE);
    layout_ = std::exchange(other.layout_, VK_NULL_HANDLE);
    pipeline_ = std::exchange(other.pipeline_, VK_NULL_HANDLE);
    n_buffers_ = other.n_buffers_;
    texel_bindings_ = other.texel_bindings_;
    push_bytes_ = other.push_bytes_;
    return *this;
}

}  // namespace winnow::vk
