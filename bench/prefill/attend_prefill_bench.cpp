// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/attend_prefill.h"

#include <fmt/format.h>

#include "bench/prefill/variants.h"
#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/vk/timeline.h"

namespace winnow::bench {
namespace {

void register_one(const Shape& s, std::uint32_t n, std::uint32_t depth, const std::string& variant) {
    const std::string name = fmt::format("attend_prefill/{}/tokens:{}/depth:{}/{}", s.name, n, depth, variant);
    benchmark::RegisterBenchmark(name.c_str(), [s, n, depth, variant](benchmark::State& state) {
        Bench& b = Bench::get();
        AttendPrefill::Config c;
        c.n_heads = s.n_heads;
        c.n_kv_heads = s.n_kv_heads;
        c.head_dim = s.head_dim;
        const auto stage = make_variant<AttendPrefill>(variant, c);
        const KvCache cache(b.device(), kv_config(s, depth + n, 1));
        for (const vk::Buffer* pool : {&cache.keys(0), &cache.values(0)})
            vk::run_once(b.device(), [&](vk::Recorder& r) { r.fill(*pool, 0x20102010); });
        const vk::Buffer q = b.buffer(std::uint64_t{n} * s.q_dim() * 2), out = b.buffer(std::uint64_t{n} * s.q_dim() * 2);
        // Two multiplications and additions for each dimension of each key that each query sees.
        const double flops = 4.0 * s.q_dim() * (static_cast<double>(n) * depth + n * (n + 1.0) / 2);
        run_flops(state, flops, AttendPrefill::bytes_moved(c, n, depth), [&](vk::Recorder& r, std::uint32_t) {
            stage.record(r, {cache.tables(), cache.keys(0), cache.values(0), q, out}, {n, depth, 0, cache.layout().table_stride()});
        });
    })->UseManualTime()->Iterations(1)->Unit(benchmark::kMicrosecond);
}

}  // namespace

void register_attend_prefill() {
    const bool cpu = Bench::get().device().is_cpu();
    for (const Shape& s : shapes())
        for (const std::string& variant : available_variants({"attend_prefill_f16", "attend_prefill_coopmat"}))
            for (const std::uint32_t n : cpu ? std::vector<std::uint32_t>{16} : std::vector<std::uint32_t>{128, 512, 1024})
                for (const std::uint32_t depth :
                     cpu ? std::vector<std::uint32_t>{1024} : std::vector<std::uint32_t>{0, 8192, 32768, 131072})
                    register_one(s, n, depth, variant);
}

}  // namespace winnow::bench
