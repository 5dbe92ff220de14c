// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/tokenizer.h"
#include "winnow/session.h"

namespace winnow {

/// For each of `presets`, which are some of tuned_presets(): the cheapest mass or budget with which the exact audit
/// finds at least `target` of the attention, mean over layers, heads and steps; the dearest one where none does. A mass
/// is never below the preset's own. A preset with which no layer selects is left out. Presets that need an index use
/// that of `calibration`. The session's cache holds the text that `next` goes on with; it is as long afterwards.
/// @param next tokens to decode, one by one. @param progress done and total decode steps, at most.
std::vector<PresetSetting> find_settings(Session& session, const std::vector<std::string>& presets,
                                         const std::shared_ptr<const Calibration>& calibration,
                                         std::span<const TokenId> next, float target,
                                         const std::function<void(std::uint64_t, std::uint64_t)>& progress);

/// Those of the settings that reach the target, the fewest bytes first.
std::vector<PresetSetting> cheapest_settings(const std::vector<PresetSetting>& settings, float target);

/// What `auto` should be: of the presets that reach the target and copy about as well as dense attention the one that
/// reads the fewest bytes; "exact" where none does. @param roles_safe whether presets with local heads may be chosen.
std::string best_preset(const std::vector<PresetSetting>& settings, float target, bool roles_safe);

}  // namespace winnow
