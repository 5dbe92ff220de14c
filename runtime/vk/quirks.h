// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace winnow::vk {

// Every workaround of a driver, with its reason.

/// llvmpipe (lavapipe) ends all loops of an invocation silently once they have run 65,535 times in sum
/// (LP_MAX_TGSI_LOOP_ITERATIONS in Mesa's gallivm). So on software drivers the work of an invocation is kept small:
/// enough splits for this many tokens each ...
constexpr std::uint32_t kSoftwareTokensPerSplit = 2048;
/// ... and no context that the prefill attention could not walk through.
constexpr std::uint32_t kSoftwareMaxContext = 40960;

}  // namespace winnow::vk
