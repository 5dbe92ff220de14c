// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/attend_prefill.h"

#include <fmt/format.h>

#include "bench/prefill/variants.h"
#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"

namespace winnow::bench {
namespace {

void register_one(const Shape& s, std::uint32_t n, std::uint32_t depth, const std::string& variant) {
    const std::string name = fmt::format("attend_prefill/{}/tokens:{}/depth:{}/{}", s.name, n, depth, variant);
    benchmark::RegisterBenchmark(
        name.c_str(),
        [s, n, depth, variant](benchmark::State& state) {
            Bench& b = Bench::get();
            const auto c = stage_config<AttendPrefill>(s);
            const auto stage = make_variant<AttendPrefill>(variant, c);
            const KvCache cache = filled_cache(s, depth + n);
            const vk::Buffer q = b.buffer(std::uint64_t{n} * s.q_dim() * 2),
                             out = b.buffer(std::uint64_t{n} * s.q_dim() * 2);
            // Two multiplications and additions for each dimension of each key that each query sees.
            const double flops = 4.0 * s.q_dim() * (static_cast<double>(n) * depth + n * (n + 1.0) / 2);
            run_flops(state, flops, AttendPrefill::bytes_moved(c, n, depth), [&](vk::Recorder& r, std::uint32_t) {
                stage.record(r, {cache.tables(), cache.keys(0), cache.values(0), q, out},
                             {n, depth, 0, cache.layout().table_stride()});
            });
        })
        ->UseManualTime()
        ->Iterations(1)
        ->Unit(benchmark::kMicrosecond);
}

}  // namespace

void register_attend_prefill() {
    const bool cpu = Bench::get().device().is_cpu();
    for (const Shape& s : shapes())
        for (const std::string& variant : available_variants({"attend_prefill_f16", "attend_prefill_coopmat"}))
            for (const std::uint32_t n :
                 cpu ? std::vector<std::uint32_t>{16} : std::vector<std::uint32_t>{128, 512, 1024})
                for (const std::uint32_t depth :
                     cpu ? std::vector<std::uint32_t>{1024} : std::vector<std::uint32_t>{0, 8192, 32768, 131072})
                    register_one(s, n, depth, variant);
}

}  // namespace winnow::bench
