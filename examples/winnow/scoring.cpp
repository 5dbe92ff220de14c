// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/scoring.h"

#include <algorithm>
#include <cmath>

namespace winnow::program {

double log_sum_exp(std::span<const float> logits) {
    const double most = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
    return std::log(sum) + most;
}

double negative_log_likelihood(std::span<const float> logits, double lse, TokenId target) {
    return lse - static_cast<double>(logits[static_cast<std::size_t>(target)]);
}

double divergence(std::span<const float> p, double lse_p, std::span<const float> q, double lse_q) {
    double sum = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
        const double log_p = static_cast<double>(p[i]) - lse_p;
        if (log_p > -30) sum += std::exp(log_p) * (log_p - (static_cast<double>(q[i]) - lse_q));
    }
    return sum;
}

}  // namespace winnow::program
