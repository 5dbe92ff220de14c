// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/vk/features.h"

namespace winnow::vk {

/// One compiled shader: SPIR-V words embedded at build time and what the device must have to run it.
struct ShaderVariant {
    std::string_view name;  ///< stem[_variant], e.g. "attend_dense_f16"
    std::span<const std::uint32_t> words;
    FeatureSet features;
};

/// All variants of this build, sorted by name.
std::span<const ShaderVariant> all_shaders();

/// Whether this build has it: some need tools that compile newer extensions.
bool has_shader(std::string_view name);

/// @throws Error(kInternal) when there is none of that name.
const ShaderVariant& find_shader(std::string_view name);

/// `name`, or its variant name_texel where the build has one and the device reads texels faster.
const ShaderVariant& find_shader(std::string_view name, FeatureSet features);

/// First of `names` (in order of preference) that is in this build and that `features` allow. The
/// environment variable WINNOW_FORCE_VARIANT (comma-separated names) wins when it names one of them.
/// @throws Error(kUnsupported) naming what is missing when none fits.
const ShaderVariant& best_shader(std::span<const std::string> names, FeatureSet features);

}  // namespace winnow::vk
