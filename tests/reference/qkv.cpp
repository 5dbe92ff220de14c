// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/qkv.h"

#include <cmath>

namespace winnow::reference {
namespace {

// RMS norm of the head that begins at `first`.
void norm_head(Values& x, std::size_t first, const std::vector<double>& weight, double eps) {
    const std::size_t n = weight.size();
    double squares = 0, squared_terms = 0;
    for (std::size_t d = first; d < first + n; ++d) {
        squares += x.values[d] * x.values[d];
        squared_terms += x.terms[d] * x.terms[d];
    }
    const double inverse_rms = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    const double rms_terms = std::sqrt(squared_terms / squares);
    for (std::size_t d = 0; d < n; ++d) {
        const double factor = inverse_rms * weight[d];
        x.terms[first + d] = std::abs(factor) * (x.terms[first + d] + rms_terms * std::abs(x.values[first + d]));
        x.values[first + d] *= factor;
    }
}

// Rotates the head that begins at `first` by the position's angles.
void rotate_head(Values& x, std::size_t first, const QkvInput& in, std::uint32_t position) {
    for (std::size_t i = 0; i < in.n_rot / 2; ++i) {
        const bool neox = in.pairing == RopePairing::kNeox;
        const std::size_t a = first + (neox ? i : 2 * i);
        const std::size_t b = neox ? a + in.n_rot / 2 : a + 1;
        const double c = std::cos(position * in.frequencies[i]);
        const double s = std::sin(position * in.frequencies[i]);
        const double xa = x.values[a], xb = x.values[b];
        const double ta = x.terms[a], tb = x.terms[b];
        // Cosine and sine come from two factors of a table, four roundings off; a quarter of these values, as the
        // roundings of the inner product that multiply the terms are more than 16.
        const double table = 0.25 * (std::abs(xa) + std::abs(xb));
        x.values[a] = xa * c - xb * s;
        x.values[b] = xa * s + xb * c;
        x.terms[a] = ta * std::abs(c) + tb * std::abs(s) + table;
        x.terms[b] = ta * std::abs(s) + tb * std::abs(c) + table;
    }
}

// W a / rms + bias, where the matrix's rows begin at `first_bias` of the bias.
Values project(const Matrix& w, const QkvInput& in, std::size_t first_bias) {
    const double inverse_rms = in.a.inverse_rms(in.eps);
    Values x = matvec(w, in.a);
    for (std::size_t r = 0; r < w.n_rows; ++r) {
        const double bias = in.bias.empty() ? 0 : in.bias[first_bias + r];
        x.values[r] = x.values[r] * inverse_rms + bias;
        x.terms[r] = x.terms[r] * inverse_rms + std::abs(bias);
    }
    return x;
}

}  // namespace

QkvOutput qkv(const QkvInput& in, std::uint32_t position) {
    QkvOutput out{project(in.q, in, 0), project(in.k, in, in.q.n_rows), project(in.v, in, in.q.n_rows + in.k.n_rows)};
    for (Values* x : {&out.query, &out.keys}) {
        const std::vector<double>& norm = x == &out.query ? in.q_norm : in.k_norm;
        for (std::size_t first = 0; first < x->values.size(); first += in.head_dim) {
            if (!norm.empty()) norm_head(*x, first, norm, in.eps);
            rotate_head(*x, first, in, position);
        }
    }
    for (double& value : out.query.values) value *= in.scale;
    for (double& terms : out.query.terms) terms *= in.scale;
    return out;
}

}  // namespace winnow::reference
