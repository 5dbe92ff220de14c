// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/repeat_check.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "models/calibration/head_roles.h"

namespace winnow {
namespace {

constexpr std::uint32_t kSeeds = 3;
constexpr std::uint32_t kFirstSeed = 20261124;  // not the one that the scores come from
constexpr std::uint32_t kLeadTokens = 8;        // of the second copy: they only point at the first
constexpr std::uint32_t kScoredTokens = 32;
constexpr double kMostNll = 80;  // nats: random weights reach thousands, and ratios of infinities would be no numbers
constexpr double kSafe = 1.15;   // repeat perplexity with roles over the dense one
constexpr std::uint32_t kMostWidenings = 6;
constexpr float kWidening = 0.05f / 0.14f;  // 5 % more of the heads

double nll(std::span<const float> logits, TokenId token) {
    const double most = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
    return most + std::log(sum) - logits[static_cast<std::size_t>(token)];
}

}  // namespace

std::vector<double> repeat_perplexities(Session& session, const TokenPool& pool, const std::vector<SparseOptions>& ways,
                                        std::uint32_t period,
                                        const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    const std::uint32_t n_scored = std::min(kScoredTokens, period / 2);
    std::vector<std::vector<double>> perplexities(ways.size());
    const std::uint64_t total = std::uint64_t{kSeeds} * (period + kLeadTokens + ways.size() * n_scored);
    std::uint64_t done = 0;
    for (std::uint32_t seed = 0; seed < kSeeds; ++seed) {
        const std::vector<TokenId> ids = random_text(pool, period, kFirstSeed + seed);
        std::vector<TokenId> prompt;
        if (pool.bos >= 0) prompt.push_back(pool.bos);
        prompt.insert(prompt.end(), ids.begin(), ids.end());
        prompt.insert(prompt.end(), ids.begin(), ids.begin() + kLeadTokens - 1);  // the last of them is decoded
        const auto n_prompt = static_cast<std::uint32_t>(prompt.size());
        session.use_sparse({});
        session.truncate(0);
        session.prefill(prompt, [&](std::uint32_t part, std::uint32_t) {
            progress(done + part, total);
            return true;
        });
        done += n_prompt;
        for (std::size_t way = 0; way < ways.size(); ++way) {
            if (session.truncate(n_prompt) < n_prompt) {  // again as a whole, and densely
                session.use_sparse({});
                session.prefill(prompt);
            }
            session.use_sparse(ways[way]);
            double sum = 0;
            for (std::uint32_t i = 0; i < n_scored; ++i) {
                sum += nll(session.decode_logits(ids[kLeadTokens + i - 1]), ids[kLeadTokens + i]);
                progress(std::min(++done, total), total);
            }
            perplexities[way].push_back(std::exp(std::min(sum / n_scored, kMostNll)));
        }
    }
    session.use_sparse({});
    session.truncate(0);
    std::vector<double> medians;
    for (auto& values : perplexities) {
        std::sort(values.begin(), values.end());
        medians.push_back(values[kSeeds / 2]);
    }
    return medians;
}

RepeatCheck check_roles(Session& session, const TokenPool& pool, std::shared_ptr<const Calibration> calibration,
                        const std::vector<std::string>& presets, std::uint32_t period,
                        const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    const auto window = static_cast<std::int32_t>(std::max(period / 2, 1u));
    SparseOptions off, roles;
    roles.preset = "duo";
    roles.calibration = calibration;
    roles.overrides.window = window;
    roles.overrides.min_ctx = 0;
    std::vector<SparseOptions> ways{off, roles};
    const std::vector<bool> windowed(session.shape().n_layers);
    for (const std::string& preset : presets) {
        SparseOptions way;
        way.preset = preset;
        way.calibration = calibration;
        way.overrides.min_ctx = 0;
        const SparsePolicy policy = make_preset(preset, windowed, {}, calibration.get());
        if (!policy.local_heads.empty()) way.overrides.window = window;
        const std::vector<PresetSetting>& settings = calibration->settings;
        const auto setting =
            std::find_if(settings.begin(), settings.end(), [&](const PresetSetting& s) { return s.preset == preset; });
        if (setting != settings.end() && setting->mass == 0)
            way.overrides.budget =
                std::max(static_cast<std::uint32_t>(setting->budget_share * static_cast<float>(period)),
                         policy.sink + policy.window);
        ways.push_back(way);
    }
    const std::vector<double> medians = repeat_perplexities(session, pool, ways, period, progress);
    return {medians[0], medians[1], {medians.begin() + 2, medians.end()}};
}

RolesVerdict widen_until_safe(Calibration& c, const ModelShape& shape, bool may_widen,
                              const std::function<RepeatCheck(const Calibration&)>& check) {
    const std::vector<float> levels = head_levels(c, shape);
    RolesVerdict verdict;
    while (true) {
        verdict.check = check(c);
        verdict.safe = verdict.check.roles <= kSafe * verdict.check.dense;
        if (verdict.safe || !may_widen || verdict.n_widened == kMostWidenings || c.full_share >= 1) return verdict;
        ++verdict.n_widened;
        mark_full_heads(c, shape, levels, 1 + kWidening * static_cast<float>(verdict.n_widened));
    }
}

}  // namespace winnow
