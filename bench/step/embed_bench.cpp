// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/embed.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/kv/step_buffers.h"

namespace winnow::bench {

void register_embed() {
    for (const Shape& s : shapes()) {
        for (const WeightType type : matvec_types()) {
            benchmark::RegisterBenchmark(label("embed", s, type).c_str(), [s, type](benchmark::State& state) {
                Bench& b = Bench::get();
                const Embed::Config config{s.n_embd, type};
                const Embed stage(b.device(), config);
                const auto table = b.matrices(type, 1024, s.n_embd, 0);
                const vk::Buffer st = b.state(0), x = b.buffer(s.n_embd * 4), norm = b.buffer(s.n_embd * 4);
                const vk::Buffer act = b.buffer(activation_bytes(s.n_embd));
                b.run(state, Embed::bytes_moved(config), [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {table[0], st, x, norm, act}, {matrix_ref(type, 1024), 0, 1.0f});
                });
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
