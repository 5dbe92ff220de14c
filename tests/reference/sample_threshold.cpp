// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/sample_threshold.h"

#include <algorithm>
#include <functional>

namespace winnow::reference {

float sample_threshold(std::vector<float> maxima, const SamplingOptions& options, std::size_t n_recent) {
    const std::size_t top_k = options.temperature > 0 ? options.top_k : 1;
    const std::size_t n_penalised =
        options.repeat_penalty == 1.0f ? 0 : std::min<std::size_t>(options.repeat_last_n, n_recent);
    const std::size_t wanted = top_k + n_penalised;
    if (top_k == 0 || wanted > maxima.size()) return kNoThreshold;
    std::sort(maxima.begin(), maxima.end(), std::greater<>());
    return maxima[wanted - 1];
}

}  // namespace winnow::reference
