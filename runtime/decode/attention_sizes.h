// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/kv/kv_layout.h"
#include "winnow/sparse.h"

namespace winnow {

/// Shape of the attention alone: what the pipeline needs to know of a model.
struct AttentionShape {
    std::uint32_t n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
};

constexpr std::uint32_t kAuditSplits = 8;

/// Block size of the summaries: what the levels ask for, 64 when only superblocks are scored, 0 when nothing is.
std::uint32_t summary_unit_of(const SparsePolicy& policy);

/// Tokens of a row of the index sums; 0 when there are none.
std::uint32_t index_unit_of(const SparsePolicy& policy);

/// Whether neither a later layer nor a later step reads lists again: one place for them then serves all layers.
bool lists_serve_once(const SparsePolicy& policy);

/// Most rows that the last level chooses from: below another level, the children of as many units as that may keep. A
/// steered audit may widen that to the whole cache, which is possible but not usual.
std::uint32_t last_rows(const SparsePolicy& policy, std::uint32_t capacity, bool usually);

/// Whether a level usually has more rows than one workgroup should choose from: SelectRows then does.
bool chooses_wide(const SparsePolicy& policy, std::size_t level, std::uint32_t capacity);

/// Whether index keys have codes: a level scores them.
bool has_codes(const SparsePolicy& policy);

/// Every buffer's size of an AttentionPipeline, in one place for allocation and planning.
struct AttentionSizes {
    std::vector<std::uint64_t> summary_rows, index_rows, index_sums, index_codes;  // by layer; codes in bytes
    std::uint64_t summary_element = 0, summary_sum = 0;
    std::vector<std::uint32_t> strides;
    std::uint64_t maps = 0, code_tables = 0, lists = 0, scores = 0, partials = 0, counters = 0, controls = 0,
                  policies = 0, queries = 0;
    std::uint64_t dropped = 0, head_maps = 0, lse = 0, counts = 0, audit_partials = 0, records = 0;
    std::uint64_t ranks = 0, bins = 0, through = 0, cuts = 0;  // of SelectRows, the most that a level takes
    std::uint32_t max_rows = 0, super_stride = 0, summary_unit = 0, n_select_splits = 0;
    std::uint64_t total = 0;
};

AttentionSizes sizes_of(const AttentionShape& s, const KvLayout& layout, const SparsePolicy& policy,
                        std::uint32_t n_select_splits);

}  // namespace winnow
