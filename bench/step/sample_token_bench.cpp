// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/sample_token.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_sample_token() {
    for (const Shape& s : shapes()) {
        benchmark::RegisterBenchmark(("sample_token/" + s.name).c_str(), [s](benchmark::State& state) {
            Bench& b = Bench::get();
            const SampleToken stage(b.device());
            // One logit per range stands out, so that about as many candidates remain as with real logits.
            constexpr std::uint32_t kOne = 0x3f800000, kThree = 0x40400000;
            std::vector<std::uint32_t> words(s.n_vocab, 0), largest(s.n_vocab / 32, 0);
            for (std::uint32_t i = 0; i < s.n_vocab; i += s.n_vocab / 48) {
                words[i] = kThree + i % 7 * (kOne >> 8);
                if (i / 32 < largest.size()) largest[i / 32] = words[i];
            }
            const vk::Buffer st = b.state(0), logits = b.words(words), maxima = b.words(largest);
            const vk::Buffer candidates = b.buffer((s.n_vocab + 4096) * 8), counts = b.zeros(4096), counter = b.zeros(16);
            const vk::Buffer ring = b.zeros((1 + WINNOW_TOKEN_RING) * 4);
            b.run(state, SampleToken::bytes_moved(s.n_vocab), [&](vk::Recorder& r, std::uint32_t) {
                stage.record(r, {st, logits, maxima, candidates, counts, counter, ring}, {s.n_vocab, s.n_vocab / 32, 32});
            });
        })->UseManualTime();
    }
}

}  // namespace winnow::bench
