// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/sample_token.h"

#include <algorithm>

namespace winnow::reference {

StepCounters advance(StepCounters counters, std::uint32_t token, const StopRule& rule) {
    if (counters.stopped) return counters;
    ++counters.position;
    ++counters.n_generated;
    ++counters.rng_counter;
    counters.stopped = counters.n_generated >= rule.n_limit || counters.position >= rule.n_capacity ||
                       std::find(rule.eog.begin(), rule.eog.end(), static_cast<std::int32_t>(token)) != rule.eog.end();
    return counters;
}

std::uint32_t sample_token(const std::vector<float>& logits, const SamplingOptions& options,
                           const std::vector<std::int32_t>& recent, std::uint32_t rng_counter) {
    const double uniform = options.temperature > 0 ? uniform_draw(options.seed, rng_counter) : 0;
    return pick(keep(logits, options, recent), uniform);  // greedy: the lowest id of the ties
}

bool may_sample(const std::vector<float>& logits, const SamplingOptions& options,
                const std::vector<std::int32_t>& recent, std::uint32_t rng_counter, std::uint32_t token, double slack) {
    if (options.temperature <= 0) return token == sample_token(logits, options, recent, rng_counter);
    const double uniform = uniform_draw(options.seed, rng_counter);
    for (const double edge : {0.0, slack, -slack})
        if (may_pick(keep(logits, options, recent, edge), uniform, token, slack)) return true;
    return false;
}

}  // namespace winnow::reference
