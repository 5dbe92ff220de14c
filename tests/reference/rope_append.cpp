// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/rope_append.h"

#include <cmath>

namespace winnow::reference {
namespace {

struct Head {
    std::vector<double> x, terms;
};

void add_bias(Head& head, std::span<const float> bias) {
    for (std::size_t i = 0; i < bias.size(); ++i) {
        head.x[i] += double{bias[i]};
        head.terms[i] += std::abs(double{bias[i]});
    }
}

void norm(Head& head, std::span<const float> weight, double eps) {
    if (weight.empty()) return;
    double squares = 0;
    for (const double x : head.x) squares += x * x;
    const double rms = std::sqrt(squares / static_cast<double>(head.x.size()) + eps);
    for (std::size_t i = 0; i < weight.size(); ++i) {
        head.x[i] *= double{weight[i]} / rms;
        head.terms[i] *= std::abs(double{weight[i]}) / rms;
    }
}

void rotate(Head& head, const RopeAppendInput& in, double position) {
    for (std::size_t pair = 0; pair < in.n_rot / 2; ++pair) {
        const bool neighbours = in.pairing == RopePairing::kNorm;
        const std::size_t a = neighbours ? 2 * pair : pair;
        const std::size_t b = neighbours ? 2 * pair + 1 : pair + in.n_rot / 2;
        const double c = std::cos(position * in.frequencies[pair]);
        const double s = std::sin(position * in.frequencies[pair]);
        const double x = head.x[a], y = head.x[b];
        head.x[a] = x * c - y * s;
        head.x[b] = x * s + y * c;
        // Cosine and sine come from tables: their error is absolute.
        head.terms[a] = head.terms[b] = head.terms[a] + head.terms[b];
    }
}

void append(Values& to, const Head& head, double scale) {
    for (const double x : head.x) to.values.push_back(scale * x);
    for (const double t : head.terms) to.terms.push_back(scale * t);
}

}  // namespace

RopeAppendOutput rope_append(const RopeAppendInput& in) {
    RopeAppendOutput out;
    const std::size_t n_all = in.n_heads + 2 * in.n_kv_heads;
    for (std::size_t i = 0; i < in.projections.size() / in.head_dim; ++i) {
        const std::size_t h = i % n_all;
        const auto projection = in.projections.subspan(i * in.head_dim, in.head_dim);
        Head head{{projection.begin(), projection.end()}, {}};
        for (const double x : head.x) head.terms.push_back(std::abs(x));
        if (!in.bias.empty()) add_bias(head, in.bias.subspan(h * in.head_dim, in.head_dim));
        const bool is_query = h < in.n_heads;
        const bool is_value = h >= in.n_heads + in.n_kv_heads;
        if (!is_value) {
            norm(head, is_query ? in.q_norm : in.k_norm, in.eps);
            rotate(head, in, in.position + static_cast<double>(i / n_all));
        }
        append(is_query ? out.query : (is_value ? out.values : out.keys), head, is_query ? in.scale : 1);
    }
    return out;
}

}  // namespace winnow::reference
