// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "winnow/types.h"

namespace winnow {

namespace vk {
class Device;
}

/// Group shape of a matvec stage.
struct MatvecTuning {
    std::uint32_t group_size = 0;      ///< invocations
    std::uint32_t rows_per_group = 0;  ///< multiple of 32 where the stage writes quantised blocks
    std::uint32_t rows_per_pass = 0;   ///< rows that a subgroup holds in registers at once
    std::uint32_t blocks_in_flight =
        1;  ///< blocks of 32 weights that a lane loads of each of them before it needs the first
    bool operator==(const MatvecTuning&) const = default;
};

enum class MatvecKind { kQkv, kMatvecAdd, kGateUp, kLogits };

/// The table of group shapes by device class, matrix shape and weight type, with its reasons in the source; `asked`
/// where that is not empty (bench/tune.cpp).
MatvecTuning matvec_tuning(const vk::Device& device, MatvecKind kind, std::uint32_t n_in, WeightType type,
                           const MatvecTuning& asked);

}  // namespace winnow
