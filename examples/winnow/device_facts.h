// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/vk/device.h"
#include "winnow/types.h"

namespace winnow::program {

/// A stage that has several shaders: which one runs, and why the other does not.
struct VariantChoice {
    std::string stage;
    std::string chosen;
    std::string refused;
    std::string reason;
};

/// What the stages choose on this device, for a cache of this type and so many tokens. @param shape empty = any; the
/// device may be asked how its matrices lie, see vk::Device.
std::vector<VariantChoice> variant_choices(vk::Device& device, KvType kv_type, const ModelShape& shape,
                                           std::uint32_t n_ctx);

/// "f16", "f32", "q8_0" or "q4_0": the variant that every stage takes that reads or writes the cache.
std::string cache_variant(KvType kv_type);

/// "float16, integer-dot, matrices 16x16x16 f16"
std::string features_text(const vk::Device& device);

/// Optional features, one by one. @param present those that the device has, or those that it lacks.
std::vector<std::string> feature_names(const vk::Device& device, bool present);

}  // namespace winnow::program
