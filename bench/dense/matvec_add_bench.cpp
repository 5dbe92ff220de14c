// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/matvec_add.h"

#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "bench/support/weights.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/upload.h"
#include "tests/reference/matvec_add.h"

namespace winnow::bench {
namespace {

void register_projection(const std::string& name, const std::function<std::uint32_t(const Shape&)>& n_in) {
    register_matvecs(name, n_in, [n_in](benchmark::State& state, const Shape& s, WeightType type) {
        Bench& b = Bench::get();
        const MatvecAdd::Config config =
            MatvecAdd::config_for(b.device(), n_in(s), std::max(s.q_dim(), s.n_ff), s.n_embd, type, false);
        const MatvecAdd stage(b.device(), config);
        const Weights w(type, {s.n_embd}, n_in(s), b.rotation_bytes());
        const std::vector<float> before = random_halves(s.n_embd, 2);
        const std::vector<std::uint32_t> act_words = random_activations(n_in(s));
        const vk::Buffer st = b.state(0), act = b.words(act_words), x = f32_buffer(before),
                         norm = b.buffer(s.n_embd * 4);
        const vk::Buffer out = b.buffer(activation_bytes(s.n_embd)), counters = b.zeros(64);
        b.run(
            state, MatvecAdd::bytes_moved(config, n_in(s)),
            [&](vk::Recorder& r, std::uint32_t i) {
                stage.record(r, {w.copy(i), act, st, x, norm, out, norm, x, counters},
                             {w.ref(), 0, 1e-5f, 0, n_in(s) / 32});
            },
            [&] {
                const std::vector<std::uint32_t> rows = checked_rows(s.n_embd);
                const std::vector<double> ones(rows.size(), 1);
                const reference::Residual expected =
                    reference::matvec_add(w.rows(0, rows), reference::dequantize_activations(act_words),
                                          picked(before, rows), ones, {}, 1e-5);
                return difference(picked(vk::read_back_as<float>(b.device(), x), rows), expected.x.values, 1e-4);
            });
    });
}

}  // namespace

void register_matvec_add() {
    register_projection("matvec_add_output", [](const Shape& s) { return s.q_dim(); });
    register_projection("matvec_add_down", [](const Shape& s) { return s.n_ff; });
}

}  // namespace winnow::bench
