// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>

namespace winnow {

/// A model that computes NaN or infinity. @throws Error(kBadFile) always.
[[noreturn]] void throw_not_finite();

/// @throws Error(kBadFile) when any of the logits is NaN or infinite.
void check_finite(std::span<const float> logits);

}  // namespace winnow
