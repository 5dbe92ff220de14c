// SPDX-License-Identifier: Apache-2.0
// Summaries of blocks of kSummaryUnit tokens (16 to kBlockSize) and of superblocks of 16 blocks: per-channel min and
// max in halves (f32 beside an f32 cache; keys' own values, so beside an f16 cache nothing is rounded) and the sum in
// f32. Rows of blocks lie by physical block, then rows of superblocks from super_first on, by kv head and position.
// Refreshed when a token is appended, from its key alone; the block's other keys are never read again.
#ifndef WINNOW_SUMMARY_GLSL
#define WINNOW_SUMMARY_GLSL
#include "shaders/common/interface.h"

layout(set = 0, binding = SUMMARY_BINDING, scalar) restrict buffer SummaryMin { SUMMARY_T summary_min[]; };
layout(set = 0, binding = SUMMARY_BINDING + 1, scalar) restrict buffer SummaryMax { SUMMARY_T summary_max[]; };
layout(set = 0, binding = SUMMARY_BINDING + 2, scalar) restrict buffer SummarySum { float summary_sum[]; };

const uint kSuperTokens = WINNOW_SUPER_TOKENS;

struct Summary {
    float low, high, sum;
};

// One channel of a row; `empty`: what a row is before its first token.
Summary read_summary(uint row, uint dim, bool empty) {
    if (empty) return Summary(3.0e38, -3.0e38, 0.0);
    const uint at = row * kHeadDim + dim;
    return Summary(from_summary(summary_min[at]), from_summary(summary_max[at]), summary_sum[at]);
}
void add_key(inout Summary s, float key) { s = Summary(min(s.low, key), max(s.high, key), s.sum + key); }
void write_summary(uint row, uint dim, Summary s) {
    const uint at = row * kHeadDim + dim;
    summary_min[at] = to_summary(s.low);
    summary_max[at] = to_summary(s.high);
    summary_sum[at] = s.sum;
}

// Adds one channel of the key at `position`, as the cache holds it, to the summary at `row`; the first token of `unit`
// starts it.
void summarize_row(uint row, uint unit, uint position, uint dim, float y) {
    Summary s = read_summary(row, dim, position % unit == 0);
    add_key(s, y);
    write_summary(row, dim, s);
}

void summarize(uint physical, uint kv_head, uint position, uint dim, float y, uint super_first, uint super_stride) {
    const uint per_block = kBlockSize / kSummaryUnit;
    summarize_row(physical * per_block + position % kBlockSize / kSummaryUnit, kSummaryUnit, position, dim, y);
    summarize_row(super_first + kv_head * super_stride + position / kSuperTokens, kSuperTokens, position, dim, y);
}

#endif
