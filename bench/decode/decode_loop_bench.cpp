// SPDX-License-Identifier: Apache-2.0
// Whole decode steps of random weights, host included: replaying the recorded step against recording each one anew,
// with 1 to 4 steps in flight. What wins is the default of SessionOptions.
#include "runtime/decode/decode_loop.h"

#include <chrono>
#include <string>
#include <utility>

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "models/model.h"
#include "models/random_model.h"
#include "winnow/session.h"

namespace winnow::bench {
namespace {

void generate(Session& session, std::uint32_t n) {
    SamplingOptions greedy;
    greedy.temperature = 0;
    const std::int32_t first = 7;
    session.truncate(0);
    session.start(std::span(&first, 1), greedy, {}, n);
    while (session.next()) {
    }
    session.finish();
}

void run(benchmark::State& state, const std::string& shape, bool replay, std::uint32_t n_in_flight) {
    SessionOptions options;
    options.n_ctx = 512;
    options.steps_in_flight = n_in_flight;
    options.replay_steps = replay;
    const auto session = make_session(vk::Device::open({}), random_model(shape, WeightType::kQ4_0), options);
    const std::uint32_t n = Bench::get().device().is_cpu() ? 8 : 128;
    generate(*session, n);  // pipelines and clocks
    for (auto _ : state) {
        const auto begin = std::chrono::steady_clock::now();
        generate(*session, n);
        state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / n);
    }
    state.counters["tokens_per_second"] = benchmark::Counter(1, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

void register_decode_loop() {
    for (const std::string_view shape : random_model_names()) {
        if (Bench::get().device().is_cpu() && shape != "135m") continue;
        for (const bool replay : {true, false})
            for (const std::uint32_t n_in_flight : {1u, 2u, 3u, 4u}) {
                const std::string name = "decode_loop/" + std::string(shape) +
                                         (replay ? "/replayed" : "/recorded_anew") +
                                         "/in_flight:" + std::to_string(n_in_flight);
                add_bench(name, [=](benchmark::State& state) {
                    run(state, std::string(shape), replay, n_in_flight);
                })->Iterations(5);
            }
    }
}

}  // namespace winnow::bench
