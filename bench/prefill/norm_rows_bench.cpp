// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/norm_rows.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_norm_rows() {
    for (const Shape& s : shapes()) {
        const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
        benchmark::RegisterBenchmark(("norm_rows/" + s.name).c_str(), [s, n](benchmark::State& state) {
            Bench& b = Bench::get();
            const NormRows::Config c{s.n_embd, false};
            const NormRows stage(b.device(), c);
            const vk::Buffer x = b.buffer(std::uint64_t{n} * s.n_embd * 4), w = b.buffer(s.n_embd * 4),
                             h = b.buffer(std::uint64_t{n} * s.n_embd * 2);
            b.run(state, NormRows::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
                stage.record(r, {x, w, h, x}, {n, 1e-5f});
            });
        })->UseManualTime();
    }
}

}  // namespace winnow::bench
