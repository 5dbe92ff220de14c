// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace winnow::program {

/// A script that completes commands and flags of winnow in `shell`: bash, zsh or fish. It follows from the option
/// table.
std::string completion_script(const std::string& shell);

}  // namespace winnow::program
