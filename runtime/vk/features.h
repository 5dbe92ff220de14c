// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

namespace winnow::vk {

/// Optional device abilities that shader variants may need. A device without the baseline
/// (Vulkan 1.3, push descriptors, 16-bit storage and integers, timeline semaphore, subgroup
/// arithmetic, ballot and shuffle in compute) is unusable and never gets this far.
enum class Feature : std::uint32_t {
    kFloat16 = 1u << 0,            ///< shaderFloat16 arithmetic
    kIntegerDot = 1u << 1,         ///< shaderIntegerDotProduct
    kCooperativeMatrix = 1u << 2,  ///< VK_KHR_cooperative_matrix, f16 x f16 -> f32, subgroup scope; shape: DeviceLimits
    kSubgroupSizeControl = 1u << 3,
    kTimestamps = 1u << 4,
    kTexelLoads =
        1u << 5,  ///< reads texel buffers faster than storage buffers, and binds as much of them (software drivers)
};

class FeatureSet {
public:
    constexpr FeatureSet() = default;
    constexpr explicit FeatureSet(std::uint32_t bits) : bits_(bits) {}
    constexpr void add(Feature f) { bits_ |= static_cast<std::uint32_t>(f); }
    constexpr void remove(Feature f) { bits_ &= ~static_cast<std::uint32_t>(f); }
    constexpr bool has(Feature f) const { return (bits_ & static_cast<std::uint32_t>(f)) != 0; }
    constexpr bool includes(FeatureSet other) const { return (other.bits_ & ~bits_) == 0; }
    constexpr FeatureSet missing(FeatureSet wanted) const { return FeatureSet(wanted.bits_ & ~bits_); }
    constexpr std::uint32_t bits() const { return bits_; }

private:
    std::uint32_t bits_ = 0;
};

/// "float16, integer-dot" ; "none" when empty.
std::string to_string(FeatureSet features);

}  // namespace winnow::vk
