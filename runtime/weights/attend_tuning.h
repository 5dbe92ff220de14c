// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace winnow {

namespace vk {
class Device;
}

/// Group shape of the decode attention stages; all use the same one, so that their sums run in the same order.
struct AttendTuning {
    std::uint32_t group_size = 0;        ///< invocations
    std::uint32_t lanes = 8;             ///< per token
    std::uint32_t tokens_in_flight = 2;  ///< that a lane group loads at once
};

/// @param n_group query heads per kv head. @param asked taken as it is where it is not empty (bench/tune.cpp).
/// @throws Error(kUnsupported) where not even one subgroup fits the device's shared memory.
AttendTuning attend_tuning(const vk::Device& device, std::uint32_t n_group, std::uint32_t head_dim,
                           std::uint32_t n_splits, const AttendTuning& asked = {});

/// Shared memory that shaders/common/attend.glsl declares, at most.
std::uint64_t attend_shared_bytes(std::uint32_t n_subgroups, std::uint32_t n_group, std::uint32_t head_dim,
                                  std::uint32_t n_splits);

}  // namespace winnow
