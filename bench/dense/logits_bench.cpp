// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/logits.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/kv/step_buffers.h"

namespace winnow::bench {

void register_logits() {
    for (const Shape& s : shapes()) {
        for (const WeightType type : matvec_types()) {
            benchmark::RegisterBenchmark(label("logits", s, type).c_str(), [s, type](benchmark::State& state) {
                Bench& b = Bench::get();
                const Logits::Config config{s.n_embd, s.n_vocab, type};
                const Logits stage(b.device(), config);
                const auto w = b.matrices(type, s.n_vocab, s.n_embd, b.rotation_bytes());
                const vk::Buffer st = b.state(0), act = b.buffer(activation_bytes(s.n_embd));
                const vk::Buffer logits = b.buffer(s.n_vocab * 4), maxima = b.buffer(s.n_vocab / 8);
                b.run(state, Logits::bytes_moved(config), [&](vk::Recorder& r, std::uint32_t i) {
                    stage.record(r, {w[i % w.size()], act, st, logits, maxima},
                                 {matrix_ref(type, s.n_vocab), 0, 1e-5f, 0});
                });
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
