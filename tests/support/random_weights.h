// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/random.h"
#include "winnow/types.h"

namespace winnow::test {

/// Every weight type that winnow reads.
inline constexpr std::array kAllWeightTypes{WeightType::kF32,  WeightType::kF16,  WeightType::kBF16, WeightType::kQ4_0,
                                            WeightType::kQ4_1, WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kQ8_0,
                                            WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K};

/// As in test names: Q4_K.
std::string type_name(WeightType type);
/// Blocks of 256 weights.
bool is_k_type(WeightType type);

enum class Scales {
    kUseful,     ///< weights of about 0.1, either sign
    kAnyFinite,  ///< any finite f16, subnormals and zeros included
};

/// Valid blocks with random codes: rows in GGUF's format.
std::vector<std::byte> random_blocks(WeightType type, std::size_t n_rows, std::size_t n_in, ReplicableRng& rng,
                                     Scales scales = Scales::kUseful);

}  // namespace winnow::test
