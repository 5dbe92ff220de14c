// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>
#include <string_view>
#include <vector>

#include "models/model.h"
#include "runtime/kv/kv_layout.h"

namespace winnow {

/// Names that random_model() knows: "135m" (SmolLM2), "1b" (Llama 3.2), "8b" (Llama 3).
std::span<const std::string_view> random_model_names();

/// A llama model of a known shape with pseudo-random weights of one type, made in memory: what benches time without a
/// file. All layers share the same host bytes (the device gets a copy per layer). The same name and type give the same
/// weights.
/// @throws Error(kInvalidArgument) listing the names, or when the type does not fit the shape's columns.
ModelSource random_model(std::string_view name, WeightType type);

/// The same tensors without values: their bytes read as zero and take no memory. For plans of memory.
ModelSource random_model_outline(std::string_view name, WeightType type);

/// Fills whole blocks of `type` with bounded pseudo-random values (standard deviation about 0.02).
void fill_random_weights(WeightType type, std::uint64_t seed, std::span<std::byte> blocks);

/// Whole blocks of a cache's keys or values: pseudo-random between -1 and 1, in the cache's storage type.
std::vector<std::byte> random_kv_blocks(const KvLayout& layout, std::uint64_t n_blocks);

}  // namespace winnow
