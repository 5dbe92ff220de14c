// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/matmul.h"

#include <fmt/format.h>

#include "bench/prefill/variants.h"
#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "bench/support/weights.h"
#include "runtime/vk/upload.h"
#include "tests/reference/matmul.h"

namespace winnow::bench {
namespace {

struct Product {
    const char* name;
    std::uint32_t n_rows, n_in;
};

void register_one(const Shape& s, const Product& p, WeightType type, std::uint32_t n, const std::string& variant) {
    const std::string name =
        fmt::format("{}/tokens:{}/{}", label(std::string("matmul_") + p.name, s, type), n, variant);
    add_bench(name, [p, type, n, variant](benchmark::State& state) {
        Bench& b = Bench::get();
        const Matmul::Config c{p.n_in, type, false};
        const auto stage = make_variant<Matmul>(variant, c);
        const Weights w(type, {p.n_rows}, p.n_in, b.rotation_bytes() / 4);
        const std::vector<float> tokens = random_halves(std::size_t{n} * p.n_in, 1);
        const vk::Buffer in = f16_buffer(tokens), out = b.buffer(std::uint64_t{n} * p.n_rows * 4);
        run_flops(
            state, 2.0 * p.n_in * p.n_rows * n, Matmul::bytes_moved(c, p.n_rows, n),
            [&](vk::Recorder& r, std::uint32_t i) {
                stage.record(r, {w.copy(i), in, out}, {w.ref(), 0, n, p.n_rows, 0});
            },
            [&] {  // the first token and the last one
                const std::vector<float> all = vk::read_back_as<float>(b.device(), out);
                std::vector<double> got;
                std::vector<float> rows(tokens.begin(), tokens.begin() + p.n_in);
                rows.insert(rows.end(), tokens.end() - p.n_in, tokens.end());
                for (const std::uint32_t token : {0u, n - 1})
                    for (const std::uint32_t row : checked_rows(p.n_rows))
                        got.push_back(double{all[std::size_t{token} * p.n_rows + row]});
                return difference(got, reference::matmul(w.rows(0, checked_rows(p.n_rows)), rows).values, 2e-3);
            });
    })->Iterations(1);
}

}  // namespace

void register_matmul() {
    const bool cpu = Bench::get().device().is_cpu();
    for (const Shape& s : shapes()) {
        const std::vector<Product> products{{"q", s.q_dim(), s.n_embd},
                                            {"k", s.kv_dim(), s.n_embd},
                                            {"gate", s.n_ff, s.n_embd},
                                            {"down", s.n_embd, s.n_ff}};
        for (const std::string& variant : available_variants({"matmul", "matmul_coopmat"})) {
            for (const Product& p : products)
                for (const std::uint32_t n :
                     cpu ? std::vector<std::uint32_t>{16} : std::vector<std::uint32_t>{128, 512, 1024})
                    register_one(s, p, WeightType::kQ4_0, n, variant);
            for (const WeightType type : fitting_types(products[2].n_in))
                if (type != WeightType::kQ4_0) register_one(s, products[2], type, cpu ? 16 : 512, variant);
        }
    }
}

}  // namespace winnow::bench
