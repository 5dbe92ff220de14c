// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace winnow::reference {

std::array<std::uint32_t, 2> philox_2x32(std::array<std::uint32_t, 2> counter, std::uint32_t key) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product = std::uint64_t{0xD256D193u} * counter[0];
        counter = {static_cast<std::uint32_t>(product >> 32) ^ key ^ counter[1], static_cast<std::uint32_t>(product)};
        key += 0x9E3779B9u;
    }
    return counter;
}

double uniform_draw(std::uint64_t seed, std::uint32_t counter) {
    const auto high = static_cast<std::uint32_t>(seed >> 32);
    return (philox_2x32({counter, high}, static_cast<std::uint32_t>(seed))[0] >> 8) * 0x1p-24;
}

std::vector<double> penalised(const std::vector<float>& logits, const SamplingOptions& options,
                              const std::vector<std::int32_t>& recent) {
    std::vector<double> out(logits.begin(), logits.end());
    const std::size_t n = std::min<std::size_t>(options.repeat_last_n, recent.size());
    for (std::size_t i = recent.size() - n; i < recent.size(); ++i) {
        const auto id = static_cast<std::size_t>(recent[i]);
        const double logit = logits[id];  // once, however often it occurs
        out[id] = logit > 0 ? logit / options.repeat_penalty : logit * options.repeat_penalty;
    }
    return out;
}

Kept keep(const std::vector<float>& raw, const SamplingOptions& options, const std::vector<std::int32_t>& recent,
          double slack) {
    const std::vector<double> logits = penalised(raw, options, recent);
    std::vector<double> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const double largest = sorted.front();
    double least = sorted.back();
    if (options.temperature <= 0) {
        least = largest;
    } else {
        if (options.top_k > 0 && options.top_k < sorted.size()) least = sorted[options.top_k - 1];
        if (options.top_p < 1) {
            double total = 0;
            for (const double logit : sorted) total += logit >= least ? std::exp(logit - largest) : 0;
            double mass = 0;
            for (const double logit : sorted) {
                mass += std::exp(logit - largest);
                if (mass >= (double{options.top_p} + slack) * total || logit <= least) {
                    least = std::max(least, logit);
                    break;
                }
            }
        }
        if (options.min_p > 0) least = std::max(least, largest + std::log(options.min_p * (1 - slack)));
        least = std::min(least, largest);
    }
    Kept kept;
    const double temperature = options.temperature > 0 ? double{options.temperature} : 1;
    for (std::size_t id = 0; id < logits.size(); ++id) {
        if (logits[id] < least) continue;
        kept.ids.push_back(static_cast<std::uint32_t>(id));
        kept.weights.push_back(std::exp((logits[id] - largest) / temperature));
    }
    return kept;
}

std::uint32_t pick(const Kept& kept, double uniform) {
    const double target = uniform * std::accumulate(kept.weights.begin(), kept.weights.end(), 0.0);
    double sum = 0;
    for (std::size_t i = 0; i < kept.ids.size(); ++i) {
        sum += kept.weights[i];
        if (sum > target) return kept.ids[i];
    }
    return kept.ids.back();
}

bool may_pick(const Kept& kept, double uniform, std::uint32_t token, double slack) {
    const double total = std::accumulate(kept.weights.begin(), kept.weights.end(), 0.0);
    double before = 0;
    for (std::size_t i = 0; i < kept.ids.size(); before += kept.weights[i++]) {
        if (kept.ids[i] != token) continue;
        return before / total - slack <= uniform && uniform <= (before + kept.weights[i]) / total + slack;
    }
    return false;
}

}  // namespace winnow::reference
