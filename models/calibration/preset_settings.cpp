// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/preset_settings.h"

#include <algorithm>
#include <array>
#include <utility>

namespace winnow {
namespace {

constexpr std::array<float, 7> kMasses{0.8f, 0.85f, 0.9f, 0.93f, 0.95f, 0.97f, 0.98f};
constexpr std::array<float, 7> kShares{1.0f / 32, 1.0f / 16, 3.0f / 32, 1.0f / 8, 3.0f / 16, 1.0f / 4, 3.0f / 8};
constexpr std::uint64_t kMostTrials = 3;  // of a bisection of seven
constexpr float kMostRepeat = 1.5f;       // repeat perplexity of a preset over that of dense attention

}  // namespace

std::vector<PresetSetting> find_settings(Session& session, const std::vector<std::string>& presets,
                                         const std::shared_ptr<const Calibration>& calibration,
                                         std::span<const TokenId> next, float target,
                                         const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    const std::uint32_t n_cached = session.n_cached();
    auto untuned = std::make_shared<Calibration>(*calibration);
    const std::uint64_t total = presets.size() * kMostTrials * next.size();
    std::uint64_t done = 0, n_presets = 0;
    std::vector<bool> windowed;
    for (const LayerShape& layer : session.shape().layers) windowed.push_back(layer.window != 0);
    std::vector<PresetSetting> settings;
    for (const std::string& preset : presets) {
        if (session.n_cached() != n_cached)
            break;  // a windowed layer could not go back: what follows would measure another text
        bool audited = false;
        const auto measure = [&](PresetSetting& setting) {
            untuned->settings = {setting};
            SparseOptions sparse;
            sparse.preset = preset;
            sparse.overrides.min_ctx = 0;
            sparse.audit_every = 1;
            sparse.calibration = std::make_shared<Calibration>(*untuned);
            session.use_sparse(sparse);
            for (const TokenId token : next) {
                session.decode_logits(token);
                progress(std::min(++done, total), total);
            }
            const SparseReport report = session.sparse_report();
            setting.captured =
                report.n_audits == 0 ? 0 : std::min(static_cast<float>(report.mass_mean), 1.0f);  // less its rounding
            audited = audited || report.n_audits != 0;
            setting.bytes_per_token = static_cast<float>(report.kv_bytes_per_token);
            session.truncate(n_cached);
        };
        // The rule that the preset has, without a setting.
        untuned->settings.clear();
        const SparsePolicy plain = make_preset(preset, windowed, {}, untuned.get());
        const bool by_mass = plain.levels.back().rule == BudgetRule::kTopP;
        const float own_mass = by_mass ? plain.levels.back().mass : 0;
        const std::uint32_t least = plain.sink + plain.window + 1;
        const auto setting = [&](std::size_t i) {
            PresetSetting s;
            s.preset = preset;
            if (by_mass) s.mass = kMasses[i];
            else {
                s.budget = std::max(static_cast<std::uint32_t>(kShares[i] * static_cast<float>(n_cached)), least);
                s.budget_share =
                    std::min(static_cast<float>(s.budget) / static_cast<float>(std::max(n_cached, 1u)), 1.0f);
            }
            return s;
        };
        std::size_t low = 0, high = kMasses.size() - 1;  // the answer is in [low, high]
        // A preset's own mass is what its paper asks of every head; the mean over heads may only raise it.
        if (by_mass)
            while (low < high && kMasses[low] < own_mass) ++low;
        PresetSetting best = setting(high);
        while (low < high) {
            const std::size_t middle = (low + high) / 2;
            PresetSetting s = setting(middle);
            measure(s);
            if (!audited) break;
            if (s.captured >= target) {
                high = middle;
                best = s;
            } else {
                low = middle + 1;
            }
        }
        if (audited && best.captured == 0) measure(best);  // nothing cheaper reached the target
        if (audited) settings.push_back(best);             // else no layer of this model selects with it
        done = std::min(++n_presets * kMostTrials * next.size(), total);
    }
    return settings;
}

std::vector<PresetSetting> cheapest_settings(const std::vector<PresetSetting>& settings, float target) {
    std::vector<PresetSetting> good;
    for (const PresetSetting& s : settings)
        if (s.captured >= target && s.bytes_per_token > 0) good.push_back(s);
    std::stable_sort(good.begin(), good.end(), [](const PresetSetting& a, const PresetSetting& b) {
        return a.bytes_per_token < b.bytes_per_token;
    });
    return good;
}

std::string best_preset(const std::vector<PresetSetting>& settings, float target, bool roles_safe) {
    for (const PresetSetting& s : cheapest_settings(settings, target)) {
        if (s.preset == "rtpurbo" && !roles_safe) continue;
        if (s.repeat_ratio > 0 && s.repeat_ratio <= kMostRepeat) return s.preset;
    }
    return "exact";
}

}  // namespace winnow
