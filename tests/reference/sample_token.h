// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "tests/reference/sampler.h"

namespace winnow::reference {

/// What a decode step carries to the next one.
struct StepCounters {
    std::uint32_t position = 0;  ///< of the token being processed
    std::uint32_t n_generated = 0;
    std::uint32_t rng_counter = 0;
    bool stopped = false;
};

/// When an answer ends: after a token of `eog`, after n_limit tokens, or when the next position would be n_capacity.
struct StopRule {
    std::vector<std::int32_t> eog;
    std::uint32_t n_limit = 0;
    std::uint32_t n_capacity = 0;
};

/// The counters after `token` was drawn; a stopped step changes nothing.
StepCounters advance(StepCounters counters, std::uint32_t token, const StopRule& rule);

/// The next token of these logits.
std::uint32_t sample_token(const std::vector<float>& logits, const SamplingOptions& options,
                           const std::vector<std::int32_t>& recent, std::uint32_t rng_counter);

/// Whether a kernel may draw `token` there when its sums are off by `slack`, relatively.
bool may_sample(const std::vector<float>& logits, const SamplingOptions& options,
                const std::vector<std::int32_t>& recent, std::uint32_t rng_counter, std::uint32_t token, double slack);

}  // namespace winnow::reference
