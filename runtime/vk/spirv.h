// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace winnow::vk {

/// What a SPIR-V module says about itself; read to catch mistakes before a driver sees them.
struct SpirvInfo {
    std::vector<std::uint32_t> capabilities;               ///< as declared
    std::vector<std::uint32_t> bindings;                   ///< sorted, each once; sets are not told apart
    std::vector<std::uint32_t> texel_bindings;             ///< those of texel buffers; sorted
    std::vector<std::uint32_t> spec_ids;                   ///< sorted
    std::array<std::uint32_t, 3> workgroup_size{1, 1, 1};  ///< after specialisation
    std::uint64_t shared_bytes = 0;                        ///< of all shared variables together, after specialisation
};

/// `spec[i]` stands for constant_id i. @throws Error(kInternal) when the words are no module.
SpirvInfo inspect_spirv(std::span<const std::uint32_t> words, std::span<const std::uint32_t> spec = {});

}  // namespace winnow::vk
