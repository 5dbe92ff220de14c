// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/summarize_block.h"

#include "bench/support/attention_setup.h"
#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "runtime/vk/upload.h"
#include "tests/reference/summarize_block.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kUnit = 16;

}  // namespace

void register_summarize_block() {
    register_attention("summarize_block", {}, [](benchmark::State& state, const AttentionCase& at) {
        Bench& b = Bench::get();
        const std::uint32_t n = at.n_tokens, dim = at.shape.head_dim, n_kv_heads = at.shape.n_kv_heads;
        const RandomCache cache(at.shape, n);
        SummarizeBlock::Config c;
        c.n_kv_heads = n_kv_heads;
        c.head_dim = dim;
        c.summary_unit = kUnit;
        const SummarizeBlock stage(b.device(), c);
        const std::uint32_t units = cache.layout().layer_blocks(0) * (64 / kUnit), supers = (n + 1023) / 1024;
        const std::uint64_t values = std::uint64_t{units + n_kv_heads * supers} * dim;
        const vk::Buffer low = b.buffer(values * 2), high = b.buffer(values * 2), sum = b.buffer(values * 4),
                         none = b.buffer(16);
        b.run(
            state, SummarizeBlock::bytes_moved(c, n),
            [&](vk::Recorder& r, std::uint32_t) {
                stage.record(
                    r, {cache.pools().tables(), cache.pools().keys(0), low, high, sum, none, none, none, none, none},
                    {n, 0, 0, cache.layout().table_stride(), 0, units, supers, 0});
            },
            [&] {  // the first unit of the first head and the last of the last, and their superblocks
                const std::vector<float> sums = vk::read_back_as<float>(b.device(), sum);
                for (const bool is_last : {false, true}) {
                    const std::uint32_t h = is_last ? n_kv_heads - 1 : 0, unit = is_last ? n / kUnit - 1 : 0,
                                        super = is_last ? supers - 1 : 0;
                    const reference::HeadView view = cache.head(h);
                    const std::size_t unit_row =
                        std::size_t{cache.layout().head(0, h).first_block} * (64 / kUnit) + unit;
                    const std::size_t super_row = units + std::size_t{h} * supers + super;
                    for (const bool is_super : {false, true}) {
                        const std::size_t row = (is_super ? super_row : unit_row) * dim;
                        const std::uint32_t begin = is_super ? super * 1024 : unit * kUnit;
                        const reference::Summary expected = reference::summarize_block(
                            cache.view({&view, 1}), 0, begin, begin + (is_super ? 1024 : kUnit));
                        const std::vector<float> least = f16_values(low, row, dim), most = f16_values(high, row, dim);
                        const auto total = sums.begin() + static_cast<std::ptrdiff_t>(row);
                        for (const std::string& wrong : {difference({least.begin(), least.end()}, expected.min, 1e-6),
                                                         difference({most.begin(), most.end()}, expected.max, 1e-6),
                                                         difference({total, total + dim}, expected.sum, 1e-4)})
                            if (!wrong.empty()) return wrong;
                    }
                }
                return std::string();
            });
    });
}

}  // namespace winnow::bench
