// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/attend_prefill.h"

#include <fmt/format.h>

#include <cmath>

#include "bench/prefill/variants.h"
#include "bench/support/attention_setup.h"
#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "tests/reference/attend_prefill.h"

namespace winnow::bench {
namespace {

void register_one(const Shape& s, std::uint32_t n, std::uint32_t depth, const std::string& variant) {
    const std::string name = fmt::format("attend_prefill/{}/tokens:{}/depth:{}/{}", s.name, n, depth, variant);
    add_bench(name, [s, n, depth, variant](benchmark::State& state) {
        Bench& b = Bench::get();
        const auto c = stage_config<AttendPrefill>(s);
        const auto stage = make_variant<AttendPrefill>(variant, c);
        const RandomCache cache(s, depth + n);
        // Powers of two keep halves halves.
        std::vector<float> queries = random_halves(std::size_t{n} * s.q_dim(), 1);
        for (float& x : queries) x = std::ldexp(x, -1);
        const vk::Buffer q = f16_buffer(queries), out = b.buffer(std::uint64_t{n} * s.q_dim() * 2);
        // Two multiplications and additions for each dimension of each key that each query sees.
        const double flops = 4.0 * s.q_dim() * (static_cast<double>(n) * depth + n * (n + 1.0) / 2);
        run_flops(
            state, flops, AttendPrefill::bytes_moved(c, n, depth),
            [&](vk::Recorder& r, std::uint32_t) {
                stage.record(r, {cache.pools().tables(), cache.pools().keys(0), cache.pools().values(0), q, out},
                             {n, depth, 0, cache.layout().table_stride()});
            },
            [&] {  // the first query head of the first token and the last of the last
                for (const bool is_last : {false, true}) {
                    const std::uint32_t token = is_last ? n - 1 : 0, head = is_last ? s.n_heads - 1 : 0;
                    const std::size_t at = std::size_t{token} * s.q_dim() + std::size_t{head} * s.head_dim;
                    const reference::HeadView view = cache.head(head / (s.n_heads / s.n_kv_heads));
                    const auto query = std::span<const float>(queries).subspan(at, s.head_dim);
                    const reference::Attended expected =
                        reference::attend_prefill(query, 1, cache.view({&view, 1}), depth + token);
                    const std::vector<float> got = f16_values(out, at, s.head_dim);
                    const std::string wrong =
                        difference({got.begin(), got.end()}, expected.output, 5e-3);  // weights are halves too
                    if (!wrong.empty()) return wrong;
                }
                return std::string();
            });
    })->Iterations(1);
}

}  // namespace

void register_attend_prefill() {
    const bool cpu = Bench::get().device().is_cpu();
    for (const Shape& s : shapes())
        for (const std::string& variant : available_variants({"attend_prefill_f16", "attend_prefill_coopmat_f16"}))
            for (const std::uint32_t n :
                 cpu ? std::vector<std::uint32_t>{16} : std::vector<std::uint32_t>{128, 512, 1024})
                for (const std::uint32_t depth :
                     cpu ? std::vector<std::uint32_t>{1024} : std::vector<std::uint32_t>{0, 8192, 32768, 131072})
                    register_one(s, n, depth, variant);
}

}  // namespace winnow::bench
