// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/forward.h"

#include <cmath>
#include <numbers>

namespace winnow::reference {
namespace {

using Vector = std::vector<double>;

Vector times(const Matrix& w, const Vector& x, const Vector& bias = {}) {
    Vector y = bias.empty() ? Vector(w.n_rows) : bias;
    for (std::size_t r = 0; r < w.n_rows; ++r)
        for (std::size_t c = 0; c < w.n_in; ++c) y[r] += w.values[r * w.n_in + c] * x[c];
    return y;
}

// RMS norm of each stretch of weight.size() values; nothing without a weight.
Vector norm(Vector x, const Vector& weight, double eps) {
    const std::size_t n = weight.size();
    for (std::size_t first = 0; n != 0 && first < x.size(); first += n) {
        double squares = 0;
        for (std::size_t i = 0; i < n; ++i) squares += x[first + i] * x[first + i];
        const double rms = std::sqrt(squares / static_cast<double>(n) + eps);
        for (std::size_t i = 0; i < n; ++i) x[first + i] *= weight[i] / rms;
    }
    return x;
}

void rotate(Vector& heads, const ModelShape& s, const LayerShape& layer, double position) {
    for (std::size_t first = 0; first < heads.size(); first += s.head_dim) {
        for (std::uint32_t i = 0; i < s.n_rot / 2; ++i) {
            const double divisor = s.rope_freq_divisors.empty() ? 1 : double{s.rope_freq_divisors[i]};
            const double frequency = std::pow(double{layer.rope_freq_base}, -2.0 * i / s.n_rot) / divisor;
            const double angle = position * double{layer.rope_freq_scale} * frequency;
            const bool neox = s.rope_pairing == RopePairing::kNeox;
            double& a = heads[first + (neox ? i : 2 * i)];
            double& b = heads[first + (neox ? i + s.n_rot / 2 : 2 * i + 1)];
            const double turned = a * std::cos(angle) - b * std::sin(angle);
            b = a * std::sin(angle) + b * std::cos(angle);
            a = turned;
        }
    }
}

Vector attend(const ModelShape& s, const LayerShape& layer, const Vector& q, const std::vector<Vector>& keys,
              const std::vector<Vector>& values) {
    Vector out(q.size());
    const std::size_t n = keys.size();
    const std::size_t from = layer.window == 0 || n <= layer.window ? 0 : n - layer.window;
    for (std::size_t h = 0; h < s.n_heads; ++h) {
        const std::size_t kv = h / s.n_group() * s.head_dim;
        double sum = 0;
        for (std::size_t t = from; t < n; ++t) {
            double score = 0;
            for (std::size_t i = 0; i < s.head_dim; ++i) score += q[h * s.head_dim + i] * keys[t][kv + i];
            const double weight = std::exp(score * double{s.attention_scale});
            sum += weight;
            for (std::size_t i = 0; i < s.head_dim; ++i) out[h * s.head_dim + i] += weight * values[t][kv + i];
        }
        for (std::size_t i = 0; i < s.head_dim; ++i) out[h * s.head_dim + i] /= sum;
    }
    return out;
}

double activate(Activation kind, double x) {
    if (kind == Activation::kSilu) return x / (1 + std::exp(-x));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

}  // namespace

std::vector<double> forward(const ForwardModel& m, std::span<const std::int32_t> tokens) {
    const ModelShape& s = m.shape;
    std::vector<std::vector<Vector>> keys(s.n_layers), values(s.n_layers);
    Vector logits;
    for (std::size_t position = 0; position < tokens.size(); ++position) {
        const auto row = m.table.values.begin() + tokens[position] * static_cast<std::ptrdiff_t>(s.n_embd);
        Vector x(row, row + s.n_embd);
        for (double& v : x) v *= double{s.embedding_scale};
        const auto add = [&](const Vector& branch, const Vector& post_norm) {
            const Vector y = norm(branch, post_norm, double{s.rms_eps});
            for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
        };
        for (std::size_t l = 0; l < s.n_layers; ++l) {
            const ForwardLayer& w = m.layers[l];
            Vector a = norm(x, w.attn_norm, double{s.rms_eps});
            Vector q = norm(times(w.q, a, w.q_bias), w.q_norm, double{s.rms_eps});
            Vector k = norm(times(w.k, a, w.k_bias), w.k_norm, double{s.rms_eps});
            rotate(q, s, s.layers[l], static_cast<double>(position));
            rotate(k, s, s.layers[l], static_cast<double>(position));
            keys[l].push_back(k);
            values[l].push_back(times(w.v, a, w.v_bias));
            add(times(w.output, attend(s, s.layers[l], q, keys[l], values[l])), w.post_attn_norm);
            a = norm(x, w.ffn_norm, double{s.rms_eps});
            Vector gated = times(w.gate, a);
            const Vector up = times(w.up, a);
            for (std::size_t i = 0; i < gated.size(); ++i) gated[i] = activate(s.activation, gated[i]) * up[i];
            add(times(w.down, gated), w.post_ffn_norm);
        }
        const Vector out = times(m.output, norm(x, m.output_norm, double{s.rms_eps}));
        logits.insert(logits.end(), out.begin(), out.end());
    }
    return logits;
}

}  // namespace winnow::reference
