// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/gate_rows.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_gate_rows() {
    for (const Shape& s : shapes()) {
        const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
        benchmark::RegisterBenchmark(("gate_rows/" + s.name).c_str(), [s, n](benchmark::State& state) {
            Bench& b = Bench::get();
            const GateRows::Config c{s.n_ff, Activation::kSilu};
            const GateRows stage(b.device(), c);
            const vk::Buffer in = b.buffer(std::uint64_t{n} * s.n_ff * 8), h = b.buffer(std::uint64_t{n} * s.n_ff * 2);
            b.run(state, GateRows::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
                stage.record(r, {in, h}, {n});
            });
        })->UseManualTime();
    }
}

}  // namespace winnow::bench
