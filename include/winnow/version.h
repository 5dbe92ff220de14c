// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

namespace winnow {

/// What the linked library is. The numbers are the project's in CMakeLists.txt, which `find_package(winnow VERSION)`
/// compares too.
struct Version {
    std::uint32_t major_number = 0, minor_number = 0, patch_number = 0;
    std::string text;  ///< "major.minor.patch"
    bool cooperative_matrices =
        false;  ///< whether this build has the shaders for them; whether a device runs them is another matter
};

const Version& version();

}  // namespace winnow
