// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/shader_registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "winnow/error.h"

namespace winnow::vk {
namespace {

const ShaderVariant* lookup(std::string_view name) {
    const auto all = all_shaders();
    const auto it =
        std::lower_bound(all.begin(), all.end(), name,
                         [](const ShaderVariant& variant, std::string_view wanted) { return variant.name < wanted; });
    return it != all.end() && it->name == name ? &*it : nullptr;
}

bool is_forced(std::string_view name) {
    const char* variable = std::getenv("WINNOW_FORCE_VARIANT");
    if (variable == nullptr) return false;
    std::string_view rest(variable);
    while (!rest.empty()) {
        const std::size_t comma = std::min(rest.find(','), rest.size());
        if (rest.substr(0, comma) == name) return true;
        rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    return false;
}

/// Why `name` cannot run, or empty.
std::string refusal(std::string_view name, FeatureSet features) {
    const ShaderVariant* variant = lookup(name);
    if (variant == nullptr) return fmt::format("{} is not in this build", name);
    if (features.includes(variant->features)) return {};
    return fmt::format("{} needs {}", name, to_string(features.missing(variant->features)));
}

}  // namespace

bool has_shader(std::string_view name) { return lookup(name) != nullptr; }

const ShaderVariant& find_shader(std::string_view name) {
    const ShaderVariant* variant = lookup(name);
    if (variant == nullptr) {
        throw Error(ErrorCode::kInternal, fmt::format("there is no shader '{}' in this build", name));
    }
    return *variant;
}

const ShaderVariant& find_shader(std::string_view name, FeatureSet features) {
    const std::string texel = fmt::format("{}_texel", name);
    const std::array<std::string, 2> names{texel, std::string(name)};
    return lookup(texel) != nullptr ? best_shader(names, features) : find_shader(name);
}

const ShaderVariant& best_shader(std::span<const std::string> names, FeatureSet features) {
    for (const std::string& name : names) {
        if (!is_forced(name)) continue;
        if (const std::string why = refusal(name, features); !why.empty()) {
            throw Error(ErrorCode::kUnsupported, fmt::format("WINNOW_FORCE_VARIANT: {}", why));
        }
        return find_shader(name);
    }
    std::string refusals;
    for (const std::string& name : names) {
        const std::string why = refusal(name, features);
        if (why.empty()) return find_shader(name);
        if (!refusals.empty()) refusals += "; ";
        refusals += why;
    }
    throw Error(ErrorCode::kUnsupported, fmt::format("no shader variant fits the device: {}", refusals));
}

}  // namespace winnow::vk
