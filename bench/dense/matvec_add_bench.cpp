// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/matvec_add.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/kv/step_buffers.h"

namespace winnow::bench {

void register_matvec_add() {
    struct Case {
        const char* name;
        bool down;
    };
    for (const Case c : {Case{"matvec_add_output", false}, Case{"matvec_add_down", true}}) {
        for (const Shape& s : shapes()) {
            for (const WeightType type : matvec_types()) {
                benchmark::RegisterBenchmark(label(c.name, s, type).c_str(), [s, type, c](benchmark::State& state) {
                    Bench& b = Bench::get();
                    const MatvecAdd::Config config{c.down ? s.n_ff : s.q_dim(), s.n_embd, type, false};
                    const MatvecAdd stage(b.device(), config);
                    const auto w = b.matrices(type, s.n_embd, config.n_in, b.rotation_bytes());
                    const vk::Buffer st = b.state(0), act = b.buffer(activation_bytes(config.n_in));
                    const vk::Buffer x = b.buffer(s.n_embd * 4), norm = b.buffer(s.n_embd * 4);
                    const vk::Buffer out = b.buffer(activation_bytes(s.n_embd)), counters = b.zeros(64);
                    b.run(state, MatvecAdd::bytes_moved(config), [&](vk::Recorder& r, std::uint32_t i) {
                        stage.record(r, {w[i % w.size()], act, st, x, norm, out, norm, x, counters},
                                     {matrix_ref(type, s.n_embd), 0, 1e-5f, 0});
                    });
                })->UseManualTime();
            }
        }
    }
}

}  // namespace winnow::bench
