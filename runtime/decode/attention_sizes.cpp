// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/attention_sizes.h"

#include <algorithm>

#include "runtime/attention/indexer_score.h"
#include "runtime/attention/select_rows.h"
#include "shaders/common/interface.h"

namespace winnow {

std::uint32_t summary_unit_of(const SparsePolicy& policy) {
    std::uint32_t unit = 0;
    for (const SelectLevel& level : policy.levels) {
        if (level.scorer != Scorer::kBox && level.scorer != Scorer::kMean) continue;
        if (level.unit < WINNOW_SUPER_TOKENS) return level.unit;
        unit = 64;
    }
    return unit;
}

std::uint32_t index_unit_of(const SparsePolicy& policy) {
    for (const SelectLevel& level : policy.levels)
        if (level.scorer == Scorer::kLowdimMean) return level.unit;
    return 0;
}

bool lists_serve_once(const SparsePolicy& policy) {
    return policy.refresh <= 1 && std::none_of(policy.layers.begin(), policy.layers.end(),
                                               [](const LayerSchedule& l) { return l.kind == LayerKind::kReuse; });
}

bool has_codes(const SparsePolicy& policy) {
    return std::any_of(policy.levels.begin(), policy.levels.end(),
                       [](const SelectLevel& level) { return level.scorer == Scorer::kCodes; });
}

std::uint32_t last_rows(const SparsePolicy& policy, std::uint32_t capacity, bool usually) {
    const SelectLevel& last = policy.levels.back();
    if (policy.levels.size() > 1) {
        const SelectLevel& above = policy.levels[policy.levels.size() - 2];
        const auto share = static_cast<std::uint64_t>(above.budget_share * static_cast<double>(capacity)) + 1;
        if (above.budget != 0 && (usually || !policy.steered))
            capacity = static_cast<std::uint32_t>(
                std::min<std::uint64_t>(capacity, std::max<std::uint64_t>(above.budget, share) + above.unit));
    }
    return (capacity + last.unit - 1) / last.unit + 1;
}

bool chooses_wide(const SparsePolicy& policy, std::size_t level, std::uint32_t capacity) {
    // Between the first level and the last none has units of one token.
    const std::uint32_t rows = level + 1 == policy.levels.size() ? last_rows(policy, capacity, true) : capacity;
    return SelectRows::takes(policy.levels[level], policy.pool, rows);
}

AttentionSizes sizes_of(const AttentionShape& s, const KvLayout& layout, const SparsePolicy& policy,
                        std::uint32_t n_select_splits) {
    const KvConfig& kv = layout.config();
    const std::uint64_t group = s.n_heads / s.n_kv_heads;
    AttentionSizes z;
    z.n_select_splits = n_select_splits;
    z.summary_unit = summary_unit_of(policy);
    z.super_stride = (kv.capacity + WINNOW_SUPER_TOKENS - 1) / WINNOW_SUPER_TOKENS;
    z.summary_element = std::uint64_t{s.head_dim} * summary_element_bytes(kv.type);
    z.summary_sum = s.head_dim * 4ull;
    for (std::uint32_t layer = 0; layer < s.n_layers; ++layer) {
        const bool selects = policy.layers[layer].selects();
        const std::uint64_t blocks = layout.layer_blocks(layer);
        z.summary_rows.push_back(selects && z.summary_unit != 0 ? blocks * (kv.block_size / z.summary_unit) +
                                                                      std::uint64_t{s.n_kv_heads} * z.super_stride
                                                                : 0);
        z.index_rows.push_back(
            selects && policy.index_dim != 0 ? std::uint64_t{layout.full_blocks(layer)} * kv.block_size : 0);
        z.total += z.summary_rows.back() * (2 * z.summary_element + z.summary_sum);
        z.index_sums.push_back(index_unit_of(policy) == 0 ? 0 : z.index_rows.back() / index_unit_of(policy));
        z.index_codes.push_back(has_codes(policy) ? z.index_rows.back() * index_code_words(policy.index_dim) * 2 : 0);
        z.total += z.index_rows.back() * index_row_bytes(policy.index_type, policy.index_dim) +
                   z.index_sums.back() * policy.index_dim * 4 + z.index_codes.back();
    }
    if (policy.is_dense()) return z;
    std::uint64_t list_words = 0;
    std::uint32_t coarsest = 1;  // a level scores all children of the units above it, also those beyond the capacity
    for (const SelectLevel& level : policy.levels) coarsest = std::max(coarsest, level.unit);
    const std::uint32_t n_scored = (kv.capacity + coarsest - 1) / coarsest * coarsest;
    for (std::size_t i = 0; i < policy.levels.size(); ++i) {
        const SelectLevel& level = policy.levels[i];
        const std::uint32_t rows = n_scored / level.unit + 1;
        std::uint32_t stride = rows;
        // Units come whole and may pass the budget by one, those at both ends may count for less; with kEach every head
        // has its own budget.
        const std::uint64_t rankings = policy.pool == HeadPool::kEach ? group : 1;
        if (level.budget != 0 && level.budget_share == 0 && !policy.steered)
            stride = static_cast<std::uint32_t>(
                std::min<std::uint64_t>(stride, rankings * (level.budget / level.unit + 3ull)));
        z.strides.push_back(stride);
        z.max_rows = std::max(z.max_rows, rows);
        list_words += std::uint64_t{stride} * s.n_kv_heads;
    }
    const std::uint64_t n_levels = std::max<std::size_t>(policy.levels.size(), 1);
    const auto at_least = [](std::uint64_t bytes) { return std::max<std::uint64_t>(bytes, 16); };
    z.maps = at_least(
        policy.index_dim != 0 ? std::uint64_t{s.n_layers} * s.n_kv_heads * 2 * policy.index_dim * s.head_dim * 4 : 0);
    z.code_tables = at_least(
        has_codes(policy) ? std::uint64_t{s.n_layers} * s.n_kv_heads * policy.index_dim * WINNOW_CODE_WORDS * 4 : 0);
    z.lists = at_least(list_words * (lists_serve_once(policy) ? 1 : s.n_layers) * 4);
    z.scores = at_least(std::uint64_t{s.n_heads} * IndexerScore::score_stride(z.max_rows) * 4);
    // (m, d) of ranges of rows; where select_attend scores, of rows and of what is attended besides.
    z.partials = std::uint64_t{s.n_kv_heads} * (n_select_splits + 1) * group * 16;
    z.counters = s.n_kv_heads * 8ull;  // selection, audit
    z.controls = std::uint64_t{s.n_layers} * n_levels * s.n_kv_heads * sizeof(SelectControl);
    z.policies = std::uint64_t{s.n_layers} * n_levels * s.n_kv_heads * sizeof(HeadPolicy);
    z.queries = std::uint64_t{s.n_layers} * s.n_heads * s.head_dim * 4;
    z.dropped = s.n_heads * 4ull;
    z.head_maps = std::uint64_t{s.n_layers} * s.n_kv_heads * 4;
    z.lse = s.n_heads * 4ull;
    z.counts = std::uint64_t{WINNOW_TOKEN_RING} * s.n_layers * s.n_kv_heads * 4;
    z.audit_partials = std::uint64_t{s.n_kv_heads} * kAuditSplits * group * 16;
    z.records = std::uint64_t{s.n_layers} * s.n_heads * 8;
    for (std::size_t i = 0; i < policy.levels.size(); ++i) {
        if (!chooses_wide(policy, i, kv.capacity)) continue;
        const BudgetRule rule = policy.levels[i].rule;
        const bool is_final = i + 1 == policy.levels.size();
        const auto n_group = static_cast<std::uint32_t>(group);
        z.ranks = SelectRows::rank_bytes(s.n_kv_heads, IndexerScore::score_stride(z.max_rows));
        z.bins = std::max(z.bins, SelectRows::bin_bytes(rule, s.n_kv_heads, n_group, is_final));
        z.through =
            std::max(z.through, SelectRows::through_bytes(rule, s.n_kv_heads, n_group, n_select_splits, is_final));
        z.cuts = s.n_kv_heads * sizeof(SelectCut);
    }
    z.total += z.maps + z.code_tables + z.lists + z.scores + z.partials + z.counters + z.controls + z.policies +
               z.queries + z.dropped + z.head_maps + z.lse + z.counts + z.audit_partials + z.records + z.ranks +
               z.bins + z.through + z.cuts + 16;
    return z;
}

}  // namespace winnow
