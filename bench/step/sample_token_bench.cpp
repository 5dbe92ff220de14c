// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/sample_token.h"

#include <bit>

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/vk/upload.h"
#include "tests/reference/sample_token.h"

namespace winnow::bench {

void register_sample_token() {
    for (const Shape& s : shapes()) {
        add_bench("sample_token/" + s.name, [s](benchmark::State& state) {
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
            const vk::Buffer candidates = b.buffer((s.n_vocab + 4096) * 8), counts = b.zeros(4096),
                             counter = b.zeros(16);
            const vk::Buffer ring = b.zeros((1 + WINNOW_TOKEN_RING) * 4);
            b.run(
                state, SampleToken::bytes_moved(s.n_vocab),
                [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {st, logits, maxima, candidates, counts, counter, ring},
                                 {s.n_vocab, s.n_vocab / 32, 32});
                },
                [&] {
                    std::vector<float> values;
                    for (const std::uint32_t word : words) values.push_back(std::bit_cast<float>(word));
                    const std::uint32_t token = vk::read_back_as<std::uint32_t>(b.device(), ring)[1];
                    if (reference::may_sample(values, SamplingOptions{}, {}, 0, token, 1e-4))
                        return std::string();  // Bench::state has the defaults
                    return "wrong results: token " + std::to_string(token) + " cannot have been drawn";
                });
        });
    }
}

}  // namespace winnow::bench
