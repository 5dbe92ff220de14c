// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/gate_up.h"

#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "bench/support/weights.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/upload.h"
#include "tests/reference/gate_up.h"

namespace winnow::bench {

void register_gate_up() {
    register_matvecs(
        "gate_up", [](const Shape& s) { return s.n_embd; },
        [](benchmark::State& state, const Shape& s, WeightType type) {
            Bench& b = Bench::get();
            const GateUp::Config config{s.n_embd, s.n_ff, type, type, Activation::kSilu};
            const GateUp stage(b.device(), config);
            const Weights w(type, {s.n_ff, s.n_ff}, s.n_embd, b.rotation_bytes());
            const std::vector<std::uint32_t> act_words = random_activations(s.n_embd);
            const vk::Buffer st = b.state(0), act = b.words(act_words), out = b.buffer(activation_bytes(s.n_ff));
            b.run(
                state, GateUp::bytes_moved(config),
                [&](vk::Recorder& r, std::uint32_t i) {
                    stage.record(r, {w.copy(i), act, st, out}, {w.ref(0), w.ref(1), 0, 1e-5f});
                },
                [&] {
                    const std::vector<std::uint32_t> rows = checked_rows(s.n_ff);
                    const reference::Activations all =
                        reference::dequantize_activations(vk::read_back_as<std::uint32_t>(b.device(), out));
                    std::vector<double> got;
                    for (const std::uint32_t row : rows) got.push_back(all.values[row]);
                    const reference::GatedProduct expected =
                        reference::gate_up(w.rows(0, rows), w.rows(1, rows),
                                           reference::dequantize_activations(act_words), config.activation, 1e-5);
                    return difference(got, expected.product.values, 1e-3);
                });
        });
}

}  // namespace winnow::bench
