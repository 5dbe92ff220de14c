// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/summarize_block.h"

#include <array>

#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"
#include "winnow/sparse.h"

namespace winnow {
namespace {
constexpr std::uint32_t kSuperTokens = WINNOW_SUPER_TOKENS;

// Few invocations are enough for a software driver, until an index key takes so long that the tokens of one
// (kSuperTokens over the group) would come near the loop limit of llvmpipe: a pass for each 8 channels of each
// dimension, twice where keys are bytes, and the halving of a table where they have codes.
std::uint32_t group_size(const vk::Device& device, const SummarizeBlock::Config& c) {
    if (!device.is_cpu()) return 128;
    const std::uint32_t passes = c.index_dim * (c.head_dim / 8 + 1) * (c.index_type == IndexType::kInt8 ? 2 : 1) +
                                 (c.codes ? c.index_dim * 8 : 0);
    std::uint32_t size = 32;
    while (size < 1024 && kSuperTokens / size * passes > 40000) size *= 2;
    return device.limits().fitting_group(size);
}
}  // namespace

SummarizeBlock::SummarizeBlock(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::array<std::uint32_t, 8> spec{group_size(device, c),
                                            c.head_dim,
                                            c.block_size,
                                            c.summary_unit,
                                            c.index_dim,
                                            c.index_unit,
                                            static_cast<std::uint32_t>(c.index_type),
                                            c.codes ? 1u : 0u};
    const vk::ShaderVariant& shader = vk::find_shader(kv_shader("summarize_block", c.kv_type));
    pipeline_ = vk::ComputePipeline(device, shader, 10, sizeof(SummarizePush), spec);
}

void SummarizeBlock::record(vk::Recorder& recorder, const Buffers& b, const SummarizePush& push) const {
    const std::uint32_t first = push.position / kSuperTokens;
    const std::uint32_t last = (push.position + push.n_tokens - 1) / kSuperTokens;
    recorder.dispatch(pipeline_,
                      {b.tables, b.keys, b.summary_min, b.summary_max, b.summary_sum, b.maps, b.index_keys,
                       b.index_sums, b.index_codes, b.code_tables},
                      push, last - first + 1, config_.n_kv_heads);
}

std::uint64_t SummarizeBlock::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    std::uint64_t bytes = n_tokens * kv_row_bytes(c.kv_type, c.head_dim);
    if (c.index_dim != 0) bytes += n_tokens * index_row_bytes(c.index_type, c.index_dim);
    if (c.codes) bytes += n_tokens * index_code_words(c.index_dim) * 2;
    if (c.summary_unit != 0)
        bytes += n_tokens / c.summary_unit * c.head_dim * (2ull * summary_element_bytes(c.kv_type) + 4);
    return bytes * c.n_kv_heads;
}

}  // namespace winnow
