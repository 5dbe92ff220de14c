// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/matmul.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_matmul() {
    for (const Shape& s : shapes()) {
        for (const WeightType type : matvec_types()) {
            const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
            benchmark::RegisterBenchmark(label("matmul_gate", s, type).c_str(), [s, type, n](benchmark::State& state) {
                Bench& b = Bench::get();
                const Matmul::Config c{s.n_embd, type, false};
                const Matmul stage(b.device(), c);
                const auto w = b.matrices(type, s.n_ff, s.n_embd, 0);
                const vk::Buffer in = b.buffer(std::uint64_t{n} * s.n_embd * 2), out = b.buffer(std::uint64_t{n} * s.n_ff * 4);
                b.run(state, Matmul::bytes_moved(c, s.n_ff, n), [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {w[0], in, out}, {matrix_ref(type, s.n_ff), 0, n, s.n_ff, 0});
                });
                const double flops = 2.0 * s.n_embd * s.n_ff * n * static_cast<double>(state.iterations());
                state.counters["flops_per_second"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
