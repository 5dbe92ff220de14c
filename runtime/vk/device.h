// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/vk/features.h"
#include "runtime/vk/vulkan.h"
#include "winnow/device.h"

namespace winnow::vk {

class Instance;
class PipelineCache;

/// Rows x columns of the result, and the depth that one multiplication sums over.
struct MatrixShape {
    std::uint32_t m = 0, n = 0, k = 0;
    bool operator==(const MatrixShape&) const = default;
};

/// Limits that decide layouts, read once.
struct DeviceLimits {
    std::uint64_t max_storage_buffer_range = 0;
    std::uint64_t max_allocation_bytes = 0;
    std::uint64_t max_matrix_bytes =
        0;  ///< of a range of a matrix's rows: the lesser of the two, or less by DeviceOptions
    std::uint64_t storage_buffer_alignment = 0;
    std::uint32_t max_shared_memory_bytes = 0;
    std::uint32_t max_workgroup_invocations = 0;
    std::uint32_t max_workgroup_count_x = 0;
    std::uint32_t max_workgroup_count_y = 0;
    std::uint32_t max_workgroup_count_z = 0;
    std::array<std::uint32_t, 3> max_workgroup_size{};
    std::uint32_t max_push_constant_bytes = 0;
    std::uint32_t subgroup_size = 0;  ///< the size pipelines get by default
    std::uint32_t min_subgroup_size = 0;
    std::uint32_t max_subgroup_size = 0;
    std::uint32_t max_workgroup_subgroups = 0;
    std::uint32_t n_processors = 0;  ///< that run workgroups at the same time; 0 = the driver does not tell
    MatrixShape matrix;              ///< of cooperative matrices f16 x f16 -> f32; zeros without the feature
    double timestamp_period_ns = 0;
    std::uint32_t timestamp_valid_bits = 0;

    /// A workgroup of `size` invocations, or of half as many, and so on, until the device runs it.
    std::uint32_t fitting_group(std::uint32_t size) const {
        while (size > 1 && (size > max_workgroup_invocations || size > max_workgroup_size[0])) size /= 2;
        return size;
    }
};

/// One logical device with one compute queue. Everything else in winnow::vk holds a reference to it
/// and must be destroyed before it. Not thread-safe except where said.
class Device {
public:
    /// @throws Error(kNoDevice | kUnsupported).
    static std::unique_ptr<Device> open(const DeviceOptions& options);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    VkDevice handle() const { return device_; }
    VkPhysicalDevice physical() const { return physical_; }
    VkQueue queue() const { return queue_; }
    std::uint32_t queue_family() const { return queue_family_; }
    const DeviceInfo& info() const { return info_; }
    const DeviceLimits& limits() const { return limits_; }
    FeatureSet features() const { return features_; }
    PipelineCache& pipeline_cache() { return *pipeline_cache_; }
    const VkPhysicalDeviceMemoryProperties& memory_properties() const { return memory_; }
    bool is_cpu() const { return info_.type == DeviceType::kCpu; }
    /// Memory is one heap that host and device share (integrated GPU or CPU driver).
    bool unified_memory() const { return unified_memory_; }

    /// Whether cooperative matrices come as the shaders that use them are tuned for: 16x16x16 in subgroups of 32.
    /// Others (Mesa's software driver: 8x8x8 in 8) run the same shaders when WINNOW_FORCE_VARIANT names them.
    bool prefers_matrices() const {
        return features_.has(Feature::kCooperativeMatrix) && limits_.matrix == MatrixShape{16, 16, 16} &&
               limits_.subgroup_size == 32;
    }

    /// Whether its matrices lie as stages need that fill them themselves, see matrix_layout.h. The first call that gets
    /// as far as asking submits work to the queue, so that nobody else may submit meanwhile; several may ask at once.
    bool known_matrix_layout();

    /// Whether pipelines print what the driver tells of their machine code, see pipeline_statistics.h.
    bool tells_pipeline_statistics() const { return tells_pipeline_statistics_; }

    /// What other programs, where the driver says that, and the buffers of this device leave of the largest
    /// device-local heap.
    std::uint64_t free_memory_bytes() const;

    /// Names an object for validation messages and captures; no-op without debug utils.
    void set_name(VkObjectType type, std::uint64_t handle, const std::string& name) const;

    /// Bytes allocated now, by Buffer; tests assert that decode allocates nothing.
    std::uint64_t allocated_bytes() const { return allocated_bytes_.load(); }
    std::uint64_t n_allocations() const { return n_allocations_.load(); }
    void count_allocation(std::int64_t bytes);  ///< called by Buffer only

    /// Validation messages of warning level or above since the start (0 without validation).
    std::uint32_t n_validation_messages() const { return n_validation_messages_.load(); }
    std::vector<std::string> validation_messages() const;
    bool validation_enabled() const { return validation_enabled_; }
    void add_validation_message(std::string text);  ///< called by the messenger only

private:
    Device();
    void create_logical_device();

    std::unique_ptr<Instance> instance_;
    VkPhysicalDevice physical_ = VK_NULL_HANDLE;
    VkDevice device_ = VK_NULL_HANDLE;
    VkQueue queue_ = VK_NULL_HANDLE;
    std::uint32_t queue_family_ = 0;
    DeviceInfo info_;
    DeviceLimits limits_;
    FeatureSet features_;
    VkPhysicalDeviceMemoryProperties memory_{};
    bool unified_memory_ = false;
    bool validation_enabled_ = false;
    bool tells_pipeline_statistics_ = false;
    std::once_flag matrix_layout_asked_;
    bool known_matrix_layout_ = false;
    std::unique_ptr<PipelineCache> pipeline_cache_;
    std::atomic<std::uint64_t> allocated_bytes_{0};
    std::atomic<std::uint64_t> n_allocations_{0};
    std::atomic<std::uint32_t> n_validation_messages_{0};
    mutable std::mutex messages_mutex_;
    std::vector<std::string> messages_;
    std::function<void(const std::string&)> on_validation_;
};

}  // namespace winnow::vk
