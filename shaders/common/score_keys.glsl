// SPDX-License-Identifier: Apache-2.0
// Scores of index keys for select_attend where it scores its rows itself (score_shares.glsl): of tokens that a level
// above kept, so that what filters them (hisa's codes or blocks) is the only level with a dispatch of its own. A key is
// a few words: a row to an invocation, and no sum crosses lanes.
#ifndef WINNOW_SCORE_KEYS_GLSL
#define WINNOW_SCORE_KEYS_GLSL
#include "shaders/common/index_keys.glsl"
#include "shaders/common/index_query.glsl"
#include "shaders/common/score_shares.glsl"

INDEX_PLANE(INDEX_KEY_BINDING, readonly)

shared vec4 index_query[kGroup * kIndexDim / 4];  // by head
vec4 query_quad(uint at) { return query[at]; }
void put_index_query(uint g, uint r, float value) { index_query[(g * kIndexDim + r) / 4][r % 4] = value; }

// The first row of an invocation. Shares take the rows of a subgroup in turn, so that all have about as many.
uint first_row(bool own, uint share) {
    return (own ? gl_SubgroupID : gl_SubgroupID * kMaxSplits + share) * kSubgroupLanes + gl_SubgroupInvocationID;
}
// That row's unit, and where it lies: under way before it is known how many rows there are. A place beyond them holds
// some word, which is asked for no block beyond the table.
uint unit_ahead, block_ahead;
void fetch_first_rows(uint share) {
    unit_ahead = row_unit(min(first_row(kMaxRows <= kOwnRows, share), push.parent_stride * kChildren - 1));
    const uint block = min(unit_ahead / kBlockSize, push.table_stride - WINNOW_TABLE_HEADER - 1);
    block_ahead = block_table[push.table_offset + kv_head * push.table_stride + WINNOW_TABLE_HEADER + block];
}

void score_share(Share s) {
    vec2 md[kStates * kGroup];
    [[unroll]] for (uint i = 0; i < kStates * kGroup; ++i) md[i] = vec2(kEmpty, 0.0);
    const uint first = first_row(s.own, s.share);
    // Rows, then tokens of sinks and window.
    for (uint i = first; i < s.n_rows + s.n_sure; i += s.own ? kGroupSize : kMaxSplits * kGroupSize) {
        const bool sure = i >= s.n_rows;
        uint row;
        bool inside = true;
        if (sure) row = sure_row(s, i - s.n_rows);
        else {
            const bool ahead = i == first && s.own == (kMaxRows <= kOwnRows) && s.share == gl_WorkGroupID.x;
            const uint unit = ahead ? unit_ahead : row_unit(i);
            inside = unit_tokens(unit) != 0;
            // A token outside has no place in the block table.
            row = ahead ? block_ahead : inside ? physical_block(table, unit / kBlockSize) : 0;
            row = inside ? row * kBlockSize + unit % kBlockSize : 0;
        }
        float score[kGroup];
        [[unroll]] for (uint g = 0; g < kGroup; ++g) score[g] = 0.0;
        [[unroll]] for (uint u = 0; u < kIndexDim / 8; ++u) {
            vec4 a, b;
            INDEX_LOAD(row, u, a, b)
            [[unroll]] for (uint g = 0; g < kGroup; ++g)
                score[g] += dot(index_query[g * kIndexDim / 4 + 2 * u], a) + dot(index_query[g * kIndexDim / 4 + 2 * u + 1], b);
        }
        [[unroll]] for (uint g = 0; g < kGroup; ++g) {
            if (!sure && s.own) own_pairs[(g * kOwnRows + i) / 2][i % 2] = score[g];
            else if (!sure) score_pairs[((kv_head * kGroup + g) * kMaxRows + i) / 2][i % 2] = score[g];
            if (!inside) continue;
            vec2 both = kStates == 2 && sure ? md[(kStates - 1) * kGroup + g] : md[g];
            merge_state(both, vec2(score[g], 1.0));
            if (kStates == 2 && sure) md[(kStates - 1) * kGroup + g] = both;
            else md[g] = both;
        }
    }
    [[unroll]] for (uint i = 0; i < kStates * kGroup; ++i) {
        const float largest = subgroupMax(md[i].x);
        const float sum = subgroupAdd(md[i].y * exp(md[i].x - largest));
        if (gl_SubgroupInvocationID == 0) share_md[gl_SubgroupID * kStates * kGroup + i] = vec2(largest, sum);
    }
}

#endif
