// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace winnow {

namespace vk {
class Device;
}

/// Group shape of the stages that score rows and choose among them.
struct SelectTuning {
    std::uint32_t group_size = 0;      ///< invocations
    std::uint32_t lanes = 0;           ///< per scored row
    std::uint32_t rows_in_flight = 2;  ///< that the lanes of a row load at once
};

/// @param dim values of a row, @param is_box a row is two of them. @param asked taken as it is where it is not empty
/// (bench/tune_selection.cpp).
SelectTuning select_tuning(const vk::Device& device, std::uint32_t dim, bool is_box = false,
                           const SelectTuning& asked = {});

/// Workgroups per kv head that share the scoring, for a cache of `capacity` tokens.
std::uint32_t select_splits(bool is_cpu, std::uint32_t n_kv_heads, std::uint32_t capacity);

}  // namespace winnow
