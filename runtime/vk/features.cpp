// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/features.h"

#include <array>
#include <utility>

namespace winnow::vk {

std::string to_string(FeatureSet features) {
    constexpr std::array<std::pair<Feature, const char*>, 6> kNames{{
        {Feature::kFloat16, "float16"},
        {Feature::kIntegerDot, "integer-dot"},
        {Feature::kCooperativeMatrix, "cooperative-matrix"},
        {Feature::kSubgroupSizeControl, "subgroup-size-control"},
        {Feature::kTimestamps, "timestamps"},
        {Feature::kTexelLoads, "texel-loads"},
    }};
    std::string text;
    for (const auto& [feature, name] : kNames) {
        if (!features.has(feature)) continue;
        if (!text.empty()) text += ", ";
        text += name;
    }
    return text.empty() ? "none" : text;
}

}  // namespace winnow::vk
