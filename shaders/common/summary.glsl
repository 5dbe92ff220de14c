// SPDX-License-Identifier: Apache-2.0
// Summaries of blocks of kSummaryUnit tokens (16 to kBlockSize) and of superblocks of 16 blocks: per-channel min and max in the
// cache's type (they are keys' own values, so nothing is rounded) and the sum in f32. Rows of blocks lie by physical block,
// then rows of superblocks from super_first on, by kv head and position. Refreshed when a token is appended,
// from its key alone; the block's other keys are never read again.
#ifndef WINNOW_SUMMARY_GLSL
#define WINNOW_SUMMARY_GLSL

layout(set = 0, binding = SUMMARY_BINDING, scalar) restrict buffer SummaryMin { KV_T summary_min[]; };
layout(set = 0, binding = SUMMARY_BINDING + 1, scalar) restrict buffer SummaryMax { KV_T summary_max[]; };
layout(set = 0, binding = SUMMARY_BINDING + 2, scalar) restrict buffer SummarySum { float summary_sum[]; };

const uint kSuperTokens = 1024;  // of a superblock: 16 blocks of 64

// Adds one channel of the key at `position` to the summary at `row`; the first token of `unit` starts it.
void summarize_row(uint row, uint unit, uint position, uint dim, float y) {
    const uint at = row * kHeadDim + dim;
    const float rounded = round_kv(y);
    const bool first = position % unit == 0;
    summary_min[at] = to_kv(first ? rounded : min(from_kv(summary_min[at]), rounded));
    summary_max[at] = to_kv(first ? rounded : max(from_kv(summary_max[at]), rounded));
    summary_sum[at] = (first ? 0.0 : summary_sum[at]) + rounded;
}

void summarize(uint physical, uint kv_head, uint position, uint dim, float y, uint super_first, uint super_stride) {
    const uint per_block = kBlockSize / kSummaryUnit;
    summarize_row(physical * per_block + position % kBlockSize / kSummaryUnit, kSummaryUnit, position, dim, y);
    summarize_row(super_first + kv_head * super_stride + position / kSuperTokens, kSuperTokens, position, dim, y);
}

#endif
