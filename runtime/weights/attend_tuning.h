// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace winnow {

namespace vk {
class Device;
}

/// Group shape of the decode attention stages.
struct AttendTuning {
    std::uint32_t group_size = 0;        ///< invocations
    std::uint32_t lanes = 8;             ///< per token
    std::uint32_t tokens_in_flight = 2;  ///< that a lane group loads at once
};

/// @param n_group query heads per kv head. @param asked taken as it is where it is not empty (bench/tune.cpp).
/// @throws Error(kUnsupported) where not even one subgroup fits the device's shared memory.
AttendTuning attend_tuning(const vk::Device& device, std::uint32_t n_group, std::uint32_t head_dim,
                           std::uint32_t n_splits, const AttendTuning& asked = {});

/// The same for the stages that attend to a part of the cache, select_attend and attend_sparse. @param own_shared_bytes
/// what the stage has besides attend.glsl.
AttendTuning sparse_attend_tuning(const vk::Device& device, std::uint32_t n_group, std::uint32_t head_dim,
                                  std::uint32_t n_splits, const AttendTuning& asked,
                                  std::uint64_t own_shared_bytes = 0);

/// Shared memory that shaders/common/attend.glsl declares, to the word, in a workgroup of so many invocations and
/// subgroups.
std::uint64_t attend_shared_bytes(std::uint32_t group_size, std::uint32_t n_subgroups, std::uint64_t n_group,
                                  std::uint32_t head_dim, std::uint32_t n_splits);

}  // namespace winnow
