// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>

#include "models/tokenizer.h"

namespace winnow::program {

/// log of the sum of exp(logits), in double.
double log_sum_exp(std::span<const float> logits);

/// -log p of `target` under softmax(logits), whose log_sum_exp is `lse`; nats.
double negative_log_likelihood(std::span<const float> logits, double lse, TokenId target);

/// KL(softmax(p) || softmax(q)) in nats, from the log_sum_exp of each; terms with p below e^-30 are left out.
double divergence(std::span<const float> p, double lse_p, std::span<const float> q, double lse_q);

}  // namespace winnow::program
