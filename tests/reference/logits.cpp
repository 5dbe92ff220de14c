// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/logits.h"

#include <algorithm>
#include <cmath>

namespace winnow::reference {

Values logits(const Matrix& w, const Activations& a, double eps) {
    const double inverse_rms = a.inverse_rms(eps);
    Values out = matvec(w, a);
    for (double& value : out.values) value *= inverse_rms;
    for (double& terms : out.terms) terms *= inverse_rms;
    return out;
}

std::vector<float> group_maxima(const std::vector<float>& logits, std::size_t rows_per_group) {
    std::vector<float> maxima;
    for (std::size_t first = 0; first < logits.size(); first += rows_per_group) {
        const std::size_t last = std::min(first + rows_per_group, logits.size());
        float largest = -3.0e38f;
        for (std::size_t i = first; i < last; ++i)
            largest = std::max(largest, std::isnan(logits[i]) || logits[i] == HUGE_VALF ? kNotFinite : logits[i]);
        maxima.push_back(largest);
    }
    return maxima;
}

}  // namespace winnow::reference
