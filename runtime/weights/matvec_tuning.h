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
        1;                   ///< blocks of 32 weights that a lane loads of each of them before it needs the first
    bool share_act = false;  ///< the vector is copied to shared memory, 80 bytes for each block of 32 values
    /// Shared memory that a vector of n values takes, and results of few rows.
    static constexpr std::uint64_t shared_bytes(std::uint64_t n) { return n / 32 * 80 + 4096; }
    bool operator==(const MatvecTuning&) const = default;
};

enum class MatvecKind { kQkv, kMatvecAdd, kGateUp, kLogits };

/// The table of group shapes by device class, matrix shape and weight type, with its reasons in the source; `asked`
/// where that is not empty (bench/tune.cpp). @param shared_bytes shared memory of the stage where it
/// shares activations; 0 for n_in of them and few other words.
MatvecTuning matvec_tuning(const vk::Device& device, MatvecKind kind, std::uint32_t n_in, WeightType type,
                           const MatvecTuning& asked, std::uint64_t shared_bytes = 0);

/// Its part for GPUs, whose workgroups have so much shared memory.
MatvecTuning gpu_matvec_tuning(MatvecKind kind, std::uint32_t n_in, WeightType type, std::uint64_t shared_bytes,
                               std::uint64_t most_shared_bytes);

}  // namespace winnow
