// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "models/calibration/calibration_input.h"
#include "winnow/session.h"

namespace winnow {

/// Median over three seeds of the perplexity of random tokens at their second appearance, decoded one by one: only heads that look back
/// a whole period can copy, so this fails where text does not.
/// @param ways sparse settings to compare; the prompt is prefilled once for all of them, densely. @param period tokens from a token to
/// its copy. @returns perplexities by way. The session's cache is left empty.
std::vector<double> repeat_perplexities(Session& session, const TokenPool& pool, const std::vector<SparseOptions>& ways,
                                        std::uint32_t period, const std::function<void(std::uint64_t, std::uint64_t)>& progress);

/// The same without and with the roles of a calibration.
struct RepeatCheck {
    double dense = 0, roles = 0;
};
/// @param calibration whose roles are judged. @param period tokens from a token to its copy, beyond the local window.
RepeatCheck check_roles(Session& session, const TokenPool& pool, std::shared_ptr<const Calibration> calibration,
                        std::uint32_t period, const std::function<void(std::uint64_t, std::uint64_t)>& progress);

}  // namespace winnow
