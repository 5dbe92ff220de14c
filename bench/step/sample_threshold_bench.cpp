// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/sample_threshold.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_sample_threshold() {
    for (const Shape& s : shapes()) {
        benchmark::RegisterBenchmark(("sample_threshold/" + s.name).c_str(), [s](benchmark::State& state) {
            Bench& b = Bench::get();
            const SampleThreshold stage(b.device());
            const vk::Buffer st = b.state(0), maxima = b.buffer(s.n_vocab / 8), threshold = b.buffer(16);
            const std::uint32_t n = s.n_vocab / 32;
            b.run(state, SampleThreshold::bytes_moved(n), [&](vk::Recorder& r, std::uint32_t) {
                stage.record(r, {st, maxima, threshold}, {s.n_vocab, n});
            });
        })->UseManualTime();
    }
}

}  // namespace winnow::bench
