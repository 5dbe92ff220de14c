// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/gate_up.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/kv/step_buffers.h"

namespace winnow::bench {

void register_gate_up() {
    for (const Shape& s : shapes()) {
        for (const WeightType type : matvec_types()) {
            benchmark::RegisterBenchmark(label("gate_up", s, type).c_str(), [s, type](benchmark::State& state) {
                Bench& b = Bench::get();
                const GateUp::Config config{s.n_embd, s.n_ff, type, type, Activation::kSilu};
                const GateUp stage(b.device(), config);
                const auto w = b.matrices(type, 2 * s.n_ff, s.n_embd, b.rotation_bytes());
                const vk::Buffer st = b.state(0), act = b.buffer(activation_bytes(s.n_embd));
                const vk::Buffer out = b.buffer(activation_bytes(s.n_ff));
                const MatrixRef all = matrix_ref(type, 2 * s.n_ff);
                const MatrixRef gate = matrix_ref(type, s.n_ff);
                b.run(state, GateUp::bytes_moved(config), [&](vk::Recorder& r, std::uint32_t i) {
                    // The up rows are read from the start of the same planes: as many bytes as in the model.
                    stage.record(r, {w[i % w.size()], act, st, out}, {gate, all, 0, 1e-5f});
                });
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
