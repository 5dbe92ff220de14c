// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/matvec_add.h"

#include "bench/support/check.h"
#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/upload.h"
#include "tests/reference/matvec_add.h"

namespace winnow::bench {

void register_matvec_add() {
    struct Case {
        const char* name;
        bool down;
    };
    for (const Case c : {Case{"matvec_add_output", false}, Case{"matvec_add_down", true}}) {
        for (const Shape& s : shapes()) {
            for (const WeightType type : matvec_types()) {
                benchmark::RegisterBenchmark(label(c.name, s, type).c_str(), [s, type, c](benchmark::State& state) {
                    Bench& b = Bench::get();
                    const MatvecAdd::Config config{c.down ? s.n_ff : s.q_dim(), s.n_embd, type, false};
                    const MatvecAdd stage(b.device(), config);
                    const auto w = b.matrices(type, s.n_embd, config.n_in, b.rotation_bytes());
                    const std::vector<float> in = random_halves(config.n_in, 1), before = random_halves(s.n_embd, 2);
                    const std::vector<std::uint32_t> act_words = reference::quantize_activations(in, in);
                    const vk::Buffer st = b.state(0), act = b.words(act_words), x = f32_buffer(before), norm = b.buffer(s.n_embd * 4);
                    const vk::Buffer out = b.buffer(activation_bytes(s.n_embd)), counters = b.zeros(64);
                    b.run(state, MatvecAdd::bytes_moved(config), [&](vk::Recorder& r, std::uint32_t i) {
                        stage.record(r, {w[i % w.size()], act, st, x, norm, out, norm, x, counters},
                                     {matrix_ref(type, s.n_embd), 0, 1e-5f, 0});
                    }, [&] {
                        const std::vector<float> all = vk::read_back_as<float>(b.device(), x);
                        std::vector<double> got, residual;
                        for (const std::uint32_t row : checked_rows(s.n_embd)) {
                            got.push_back(double{all[row]});
                            residual.push_back(double{before[row]});
                        }
                        const std::vector<double> ones(got.size(), 1);
                        const reference::Residual ref =
                            reference::matvec_add(checked_matrix(type, s.n_embd, config.n_in), reference::dequantize_activations(act_words),
                                                  residual, ones, {}, 1e-5);
                        return difference(got, ref.x.values, 1e-4);
                    });
                })->UseManualTime();
            }
        }
    }
}

}  // namespace winnow::bench
