// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/indexer_score.h"

#include <algorithm>
#include <array>

#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"

namespace winnow {

bool IndexerScore::is_indexed(Scorer s) {
    return s == Scorer::kLowdim || s == Scorer::kLowdimMean || s == Scorer::kCodes;
}

std::uint32_t IndexerScore::score_stride(std::uint32_t max_rows) { return (max_rows + 15) / 16 * 16; }

IndexerScore::IndexerScore(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    SelectTuning tuning = select_tuning(device, is_indexed(c.level.scorer) ? c.index_dim : c.head_dim,
                                        c.level.scorer == Scorer::kBox, c.tuning);
    if (c.level.scorer == Scorer::kCodes) {
        tuning.lanes = 1;           // a row is a few words
        tuning.rows_in_flight = 2;  // that share what is looked up of a dimension; 4 need too many registers
    }
    const std::array<std::uint32_t, 23> spec{tuning.group_size,
                                             c.head_dim,
                                             c.n_heads / c.n_kv_heads,
                                             c.n_kv_heads,
                                             tuning.group_size / subgroup,
                                             c.n_splits,
                                             c.block_size,
                                             static_cast<std::uint32_t>(c.level.scorer),
                                             c.level.unit,
                                             c.parent_unit,
                                             static_cast<std::uint32_t>(c.level.rule),
                                             static_cast<std::uint32_t>(c.pool),
                                             c.is_final ? 1u : 0u,
                                             std::max(c.index_dim, 8u),
                                             tuning.lanes,
                                             score_stride(c.max_rows),
                                             c.append_index ? 1u : 0u,
                                             c.append_only ? 1u : 0u,
                                             c.index_unit,
                                             static_cast<std::uint32_t>(c.index_type),
                                             static_cast<std::uint32_t>(c.ending),
                                             tuning.rows_in_flight,
                                             c.codes ? 1u : 0u};
    const vk::ShaderVariant& shader = vk::find_shader(kv_shader("indexer_score", c.kv_type));
    pipeline_ = vk::ComputePipeline(device, shader, 20, sizeof(SelectPush), spec, subgroup);
}

void IndexerScore::record(vk::Recorder& recorder, const Buffers& b, const SelectPush& push) const {
    recorder.dispatch(pipeline_,
                      {b.state,      b.tables,     b.rows,         b.rows_max, b.query,       b.maps,       b.keys,
                       b.index_keys, b.index_sums, b.lists,        b.parents,  b.scores,      b.partials,   b.counters,
                       b.controls,   b.policies,   b.last_queries, b.dropped,  b.index_codes, b.code_tables},
                      push, config_.n_splits + 1, config_.n_kv_heads);
}

std::uint64_t IndexerScore::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    const std::uint64_t rows = n_tokens / c.level.unit * c.n_kv_heads;
    std::uint64_t row_bytes = kv_row_bytes(c.kv_type, c.head_dim);
    if (c.level.scorer == Scorer::kBox) row_bytes = 2ull * c.head_dim * summary_element_bytes(c.kv_type);
    if (c.level.scorer == Scorer::kMean) row_bytes = c.head_dim * 4ull;
    if (c.level.scorer == Scorer::kLowdim) row_bytes = index_row_bytes(c.index_type, c.index_dim);
    if (c.level.scorer == Scorer::kLowdimMean) row_bytes = c.index_dim * 4ull;
    if (c.level.scorer == Scorer::kCodes) row_bytes = index_code_words(c.index_dim) * 2ull;
    return rows * row_bytes;
}

}  // namespace winnow
