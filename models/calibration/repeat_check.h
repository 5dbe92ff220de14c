// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/calibration/calibration_input.h"
#include "winnow/session.h"

namespace winnow {

/// Median over three seeds of the perplexity of random tokens at their second appearance, decoded one by one: only
/// heads that look back a whole period can copy, so this fails where text does not.
/// @param ways sparse settings to compare; the prompt is prefilled once for all of them, densely. @param period tokens
/// from a token to its copy. @returns perplexities by way. The session's cache is left empty.
std::vector<double> repeat_perplexities(Session& session, const TokenPool& pool, const std::vector<SparseOptions>& ways,
                                        std::uint32_t period,
                                        const std::function<void(std::uint64_t, std::uint64_t)>& progress);

/// The same without and with the roles of a calibration, and with some of its presets.
struct RepeatCheck {
    double dense = 0, roles = 0;
    std::vector<double> presets;
};
/// @param calibration whose roles are judged. @param presets with settings in it, judged besides: with local windows of
/// half a period and the settings' shares of the tokens. @param period tokens from a token to its copy, beyond the
/// local window.
RepeatCheck check_roles(Session& session, const TokenPool& pool, std::shared_ptr<const Calibration> calibration,
                        const std::vector<std::string>& presets, std::uint32_t period,
                        const std::function<void(std::uint64_t, std::uint64_t)>& progress);

/// What became of the roles.
struct RolesVerdict {
    RepeatCheck check;            ///< the last one
    std::uint32_t n_widened = 0;  ///< times that more heads were marked
    bool safe = false;            ///< repeats are predicted about as well as by dense attention
};
/// Marks more heads of the calibration as full until `check` finds that its roles copy, or all are marked, or it was
/// tried often enough.
RolesVerdict widen_until_safe(Calibration& calibration, const ModelShape& shape, bool may_widen,
                              const std::function<RepeatCheck(const Calibration&)>& check);

}  // namespace winnow
