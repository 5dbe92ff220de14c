// SPDX-License-Identifier: Apache-2.0
#include "bench/support/attention_setup.h"

#include <fmt/format.h>

#include "runtime/attention/attend_dense.h"
#include "runtime/kv/step_buffers.h"

namespace winnow::bench {

void register_at_depths(const std::string& stage,
                        const std::function<void(benchmark::State&, const Shape&, std::uint32_t)>& run) {
    std::vector<std::uint32_t> depths{1024, 8192};
    if (!Bench::get().device().is_cpu()) depths.insert(depths.end(), {32768, 131072});
    for (const Shape& shape : shapes())
        for (const std::uint32_t n_tokens : depths) {
            const std::string name = fmt::format("{}/{}/n_tokens:{}", stage, shape.name, n_tokens);
            benchmark::RegisterBenchmark(name.c_str(), [shape, n_tokens, run](benchmark::State& state) {
                run(state, shape, n_tokens);
            })->UseManualTime();
        }
}

KvCache filled_cache(const Shape& shape, std::uint32_t n_tokens) {
    Bench& b = Bench::get();
    KvCache cache(b.device(), kv_config(shape, n_tokens, 1));
    vk::run_once(b.device(), [&](vk::Recorder& recorder) {
        recorder.fill(cache.keys(0), kSmallValues);
        recorder.fill(cache.values(0), kSmallValues);
    });
    return cache;
}

AttentionSetup::AttentionSetup(const Shape& shape, std::uint32_t n_tokens)
    : cache(filled_cache(shape, n_tokens)),
      n_splits(AttendDense::default_splits(Bench::get().device(), shape.n_kv_heads, n_tokens, 64)),
      state(Bench::get().state(n_tokens - 1)),
      query(Bench::get().buffer(shape.q_dim() * 4)),
      partials(Bench::get().buffer(attend_partial_bytes(shape.n_heads, shape.n_kv_heads, shape.head_dim, n_splits))),
      counters(Bench::get().zeros(256)),
      attended(Bench::get().buffer(shape.q_dim() * 4)),
      act_out(Bench::get().buffer(activation_bytes(shape.q_dim()))) {}

}  // namespace winnow::bench
