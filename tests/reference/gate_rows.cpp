// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/gate_rows.h"

#include <cmath>
#include <numbers>

namespace winnow::reference {
namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }

double gelu_inner(double x) { return std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(gelu_inner(x))); }

}  // namespace

Values gate_rows(std::span<const float> gate_up, std::size_t n_ff, Activation activation) {
    const bool is_silu = activation == Activation::kSilu;
    Values out;
    for (std::size_t row = 0; row < gate_up.size(); row += 2 * n_ff) {
        for (std::size_t i = row; i < row + n_ff; ++i) {
            const double gate = gate_up[i];
            const double up = gate_up[i + n_ff];
            const double value = up * (is_silu ? silu(gate) : gelu_tanh(gate));
            const double exponent = is_silu ? gate : 2 * gelu_inner(gate);
            out.values.push_back(value);
            out.terms.push_back(std::abs(value) * (1 + std::abs(exponent)));
        }
    }
    return out;
}

}  // namespace winnow::reference
