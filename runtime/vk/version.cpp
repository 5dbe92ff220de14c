// SPDX-License-Identifier: Apache-2.0
#include "winnow/version.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/vk/shader_registry.h"

namespace winnow {

const Version& version() {
    static const Version made = [] {
        const auto shaders = vk::all_shaders();
        Version v{WINNOW_VERSION_MAJOR, WINNOW_VERSION_MINOR, WINNOW_VERSION_PATCH, {}, false};
        v.text = fmt::format("{}.{}.{}", v.major_number, v.minor_number, v.patch_number);
        v.cooperative_matrices = std::any_of(shaders.begin(), shaders.end(), [](const vk::ShaderVariant& s) {
            return s.features.has(vk::Feature::kCooperativeMatrix);
        });
        return v;
    }();
    return made;
}

}  // namespace winnow
