// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/logits.h"

#include <algorithm>

#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "bench/support/weights.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/upload.h"
#include "tests/reference/logits.h"

namespace winnow::bench {

void register_logits() {
    register_matvecs(
        "logits", [](const Shape& s) { return s.n_embd; },
        [](benchmark::State& state, const Shape& s, WeightType type) {
            Bench& b = Bench::get();
            const Logits::Config config{s.n_embd, s.n_vocab, type};
            const Logits stage(b.device(), config);
            const Weights w(type, {s.n_vocab}, s.n_embd, b.rotation_bytes());
            const std::vector<std::uint32_t> act_words = random_activations(s.n_embd);
            const vk::Buffer st = b.state(0), act = b.words(act_words);
            const vk::Buffer logits = b.buffer(s.n_vocab * 4), maxima = b.buffer(stage.n_maxima() * 4ull);
            b.run(
                state, Logits::bytes_moved(config),
                [&](vk::Recorder& r, std::uint32_t i) {
                    stage.record(r, {w.copy(i), act, st, logits, maxima}, {w.ref(), 0, 1e-5f, 0, 0});
                },
                [&] {
                    const std::vector<std::uint32_t> rows = checked_rows(s.n_vocab);
                    const reference::Values expected =
                        reference::logits(w.rows(0, rows), reference::dequantize_activations(act_words), 1e-5);
                    const std::vector<float> all = vk::read_back_as<float>(b.device(), logits);
                    const std::string wrong = difference(picked(all, rows), expected.values, 1e-4);
                    if (!wrong.empty()) return wrong;
                    const std::vector<float> largest =
                        reference::group_maxima({all.begin(), all.begin() + s.n_vocab}, stage.rows_per_group());
                    const std::vector<float> got = vk::read_back_as<float>(b.device(), maxima);
                    return std::equal(largest.begin(), largest.end(), got.begin())
                               ? std::string()
                               : "wrong results: maxima are not those of the logits";
                });
        });
}

}  // namespace winnow::bench
