// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/gate_up.h"

#include <cmath>
#include <numbers>

namespace winnow::reference {
namespace {

double act(Activation activation, double x) {
    if (activation == Activation::kSilu) return x / (1 + std::exp(-x));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

// The argument of the logistic function in either of them: GELU's tanh form is x * logistic(2 z).
double logistic_argument(Activation activation, double x) {
    return activation == Activation::kSilu ? x : 2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
}

}  // namespace

GatedProduct gate_up(const Matrix& gate, const Matrix& up, const Activations& a, Activation activation, double eps) {
    const double inverse_rms = a.inverse_rms(eps);
    const Values g = matvec(gate, a);
    const Values u = matvec(up, a);
    GatedProduct out;
    for (std::size_t r = 0; r < gate.n_rows; ++r) {
        const double x = g.values[r] * inverse_rms;
        const double y = u.values[r] * inverse_rms;
        const double value = act(activation, x);
        const double slope = (act(activation, x + 1e-4) - act(activation, x - 1e-4)) / 2e-4;
        out.product.values.push_back(value * y);
        out.product.terms.push_back(std::abs(slope * y) * inverse_rms * g.terms[r] +
                                    std::abs(value) * inverse_rms * u.terms[r]);
        // exp(-z) may be off by 3 + 2 |z| units in the last place (Vulkan), two roundings each; z itself by 6
        // roundings. Both matter as far as exp(-z) matters in 1 + exp(-z).
        const double z = logistic_argument(activation, x);
        const double share = 1 / (1 + std::exp(z));
        out.gate_terms.push_back(std::abs(value * y) * (share * (6 + 10 * std::abs(z)) + 6));
    }
    return out;
}

}  // namespace winnow::reference
