// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "winnow/types.h"

namespace winnow {

namespace vk {
class Device;
struct ShaderVariant;
}  // namespace vk

/// Group shape of the decode attention stages.
struct AttendTuning {
    std::uint32_t group_size = 0;        ///< invocations
    std::uint32_t lanes = 8;             ///< per token
    std::uint32_t tokens_in_flight = 2;  ///< that a lane group loads at once; by matrix units a subgroup, 16 or 32
    bool matrices = false;               ///< matrix units in place of lanes
    bool operator==(const AttendTuning&) const = default;
};

/// @param n_group query heads per kv head. @param asked taken as it is where it is not empty (bench/tune.cpp).
/// @throws Error(kUnsupported) where not even one subgroup fits the device's shared memory.
AttendTuning attend_tuning(const vk::Device& device, std::uint32_t n_group, std::uint32_t head_dim,
                           std::uint32_t n_splits, const AttendTuning& asked = {});

/// A stage that attends, as far as its variant and its group shape depend on it.
struct AttendStage {
    std::string shader;  ///< name of the variant by lanes; with _texel or _matrix those beside it
    KvType kv_type = KvType::kF16;
    std::uint32_t n_group = 0, head_dim = 0, n_splits = 0;
    bool sparse = false;                 ///< attends to a part of the cache
    bool by_lanes = false;               ///< skips values, which only the lanes do
    std::uint64_t own_shared_bytes = 0;  ///< beside attend.glsl
};
/// What it is compiled from.
struct AttendVariant {
    const vk::ShaderVariant* shader = nullptr;
    AttendTuning tuning{};
    std::uint64_t shared_bytes = 0;  ///< in all
};
/// Shader variants that can do a stage's work, the one first that serves best on the device: matrix units where it has
/// them and they win, else lanes. Parameters as of attend_variant().
std::vector<std::string> attend_variants(vk::Device& device, const AttendStage& stage, const AttendTuning& asked = {});
/// The best of them. @param device may be asked how its matrices lie
/// @param asked as above @throws Error(kUnsupported) as above
AttendVariant attend_variant(vk::Device& device, const AttendStage& stage, const AttendTuning& asked = {});

/// Shared memory that shaders/common/attend.glsl declares, to the word, in a workgroup of so many invocations and
/// subgroups.
std::uint64_t attend_shared_bytes(std::uint32_t group_size, std::uint32_t n_subgroups, std::uint64_t n_group,
                                  std::uint32_t head_dim, std::uint32_t n_splits, bool matrices = false);

}  // namespace winnow
