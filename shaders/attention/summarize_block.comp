#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: after a prefill chunk, the summaries of the blocks and superblocks that it touched and the index keys of
// its tokens with their codes (a decode step does the same for its one token inside qkv and indexer_score). Only the
// chunk's own keys are read.
// One workgroup handles: one superblock of one kv head, or what of it the chunk covers; one invocation per channel or
// index dimension.
// Bindings: 0 block table; 1 K pool; 2, 3, 4 summaries (min, max, sum); 5 index maps f32; 6 index keys,
// index_keys.glsl; 7 sums of index keys f32; 8 codes of index keys and 9 their tables, index_codes.glsl
// Needs: storage16.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 32;
layout(constant_id = 1) const uint kHeadDim = 64;
layout(constant_id = 2) const uint kBlockSize = 64;
layout(constant_id = 3) const uint kSummaryUnit = 64;  // 0 = no summaries
layout(constant_id = 4) const uint kIndexDim = 0;      // 0 = no index keys
layout(constant_id = 5) const uint kIndexUnit = 64;    // tokens of a row of the index sums; 0 = there are none
layout(constant_id = 6) const uint kIndexType = 0;
layout(constant_id = 7) const uint kCodes = 0;         // 1 = index keys have codes

#define TABLE_BINDING 0
#define SUMMARY_BINDING 2
#include "shaders/common/interface.h"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/words.glsl"
#include "shaders/common/index_keys.glsl"
#include "shaders/common/index_codes.glsl"
#include "shaders/common/summary.glsl"

const uint kBatch = 16;  // keys on their way at once

layout(push_constant, scalar) uniform Push { SummarizePush push; };
READ_WORDS(key_pool, 1, restrict readonly)
layout(set = 0, binding = 5, scalar) restrict readonly buffer Maps { float maps[]; };
INDEX_PLANE(6, coherent)
layout(set = 0, binding = 7, scalar) restrict buffer IndexSums { float index_sums[]; };
CODE_PLANE(8)
CODE_TABLES(9)

// One channel over the tokens [begin, end) of a superblock. Sums run in the order of the tokens, as they do when a
// decode step appends them one by one: the same bits, however the prompt was cut.
void summarize_channel(HeadTable table, uint kv_head, uint dim, uint begin, uint end) {
    const uint super_row = push.super_first + kv_head * push.super_stride + begin / kSuperTokens;
    Summary super = read_summary(super_row, dim, begin % kSuperTokens == 0);
    Summary unit;
    uint unit_row = 0;
    for (uint base = begin; base < end; base += kBatch) {
        float keys[kBatch];
        uint rows[kBatch];
        [[unroll]] for (uint k = 0; k < kBatch; ++k) {
            const uint position = min(base + k, end - 1);
            rows[k] = physical_block(table, position / kBlockSize) * kBlockSize + position % kBlockSize;
            keys[k] = KV_VALUE(key_pool, rows[k], dim);
        }
        [[unroll]] for (uint k = 0; k < kBatch; ++k) {
            const uint position = base + k;
            if (position >= end) continue;
            const bool first = position % kSummaryUnit == 0;
            if (first || position == begin) {
                unit_row = rows[k] / kSummaryUnit;
                unit = read_summary(unit_row, dim, first);
            }
            add_key(unit, keys[k]);
            add_key(super, keys[k]);
            if (position % kSummaryUnit == kSummaryUnit - 1 || position == end - 1) write_summary(unit_row, dim, unit);
        }
    }
    write_summary(super_row, dim, super);
}

// Dimension r of the index key of key_row. With codes it is asked for twice: an array of them would take a software
// driver's compiler seconds, and shared memory is too small for a key of each invocation.
uint key_row, first_map;
float index_key(uint r) {
    const uint map_at = first_map + r * kHeadDim;
    float sum = 0.0;
    for (uint unit = 0; unit < kRowUnits; ++unit) {
        vec4 a, b;
        KV_LOAD(key_pool, key_row, unit, a, b)
        [[unroll]] for (uint e = 0; e < 4; ++e) sum += maps[map_at + unit * 8 + e] * a[e];
        [[unroll]] for (uint e = 0; e < 4; ++e) sum += maps[map_at + unit * 8 + 4 + e] * b[e];
    }
    return sum;
}
// As a reader will see it. Halves are rounded by hand once more, which changes none: NVIDIA's compiler takes unpack(pack(x))
// for x, and knows here what was packed.
float stored_key(uint r) {
    const float x = INDEX_VALUE(key_row, r);
    return kIndexType == WINNOW_INDEX_INT8 ? x : round_half(x);
}

void main() {
    const uint kv_head = gl_WorkGroupID.y;
    const HeadTable table = head_table(push.table_offset, push.table_stride, kv_head);
    if (table.window != 0) return;
    const uint super = push.position / kSuperTokens + gl_WorkGroupID.x;
    const uint begin = max(super * kSuperTokens, push.position);
    const uint end = min((super + 1) * kSuperTokens, push.position + push.n_tokens);
    if (kSummaryUnit != 0)
        for (uint dim = gl_LocalInvocationIndex; dim < kHeadDim; dim += kGroupSize)
            summarize_channel(table, kv_head, dim, begin, end);
    if (kIndexDim != 0) {
        first_map = push.maps + (kv_head * 2 + 1) * kIndexDim * kHeadDim;
        // Keys: one invocation per token. Sums: one per index dimension, once the keys are there.
        for (uint position = begin + gl_LocalInvocationIndex; position < end; position += kGroupSize) {
            const uint row = physical_block(table, position / kBlockSize) * kBlockSize + position % kBlockSize;
            key_row = row;
            INDEX_LARGEST(largest, index_key)
            INDEX_STORE_ROW(row, index_key, largest, 0, 1)
            if (kCodes == 0) continue;
            CODE_STORE_ROW(row, stored_key, push.codes + kv_head * kIndexDim * WINNOW_CODE_WORDS, 0, 1)
        }
        if (kIndexUnit == 0) return;  // for all of the group
        memoryBarrierBuffer();
        barrier();
        for (uint r = gl_LocalInvocationIndex; r < kIndexDim; r += kGroupSize) {
            for (uint position = begin; position < end; ++position) {
                const uint row = physical_block(table, position / kBlockSize) * kBlockSize + position % kBlockSize;
                const uint at = (row / max(kIndexUnit, 1u)) * kIndexDim + r;
                const float key = INDEX_VALUE(row, r);
                index_sums[at] = (position % kIndexUnit == 0 ? 0.0 : index_sums[at]) + key;
            }
        }
    }
}
