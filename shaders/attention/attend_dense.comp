#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: softmax attention of one token over every cached token that its heads see (split-KV, FlashDecoding style;
// online softmax after Milakov & Gimelshein 2018).
// One workgroup handles: one of kMaxSplits ranges of blocks of one kv head, all its query heads at once.
// Bindings: 0 state; 1 block table; 2 K pool; 3 V pool; 4 q f32 [n_heads, head_dim], scaled; 5 partial states;
//   6 arrival counters; 7 output f32 [n_heads, head_dim]; 8 output as quantised activations;
//   9 sums of what left the windows, evicted.glsl
// Needs: storage16, subgroup arithmetic, ballot and shuffle; the variants *_matrix f16 arithmetic and cooperative matrix.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#ifdef WINNOW_MATRICES
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#endif
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 64;
layout(constant_id = 1) const uint kHeadDim = 64;
layout(constant_id = 2) const uint kGroup = 3;       // query heads per kv head
layout(constant_id = 3) const uint kKvHeads = 3;
layout(constant_id = 4) const uint kLanes = 8;       // lanes per token
layout(constant_id = 5) const uint kSubgroups = 8;
layout(constant_id = 6) const uint kMaxSplits = 8;
layout(constant_id = 7) const uint kTokensInFlight = 2;
layout(constant_id = 8) const uint kBlockSize = 64;
layout(constant_id = 9) const uint kQuantize = 1;    // also write the quantised form
layout(constant_id = 10) const uint kMinBlocks = 1;  // blocks that make a split worth its merge
layout(constant_id = 11) const bool kEvicted = false;


const bool kSkipValues = false;

#define STATE_BINDING 0
#define TABLE_BINDING 1
#define KEY_BINDING 2
#define VALUE_BINDING 3
#define QUERY_BINDING 4
#define PARTIAL_BINDING 5
#define COUNTER_BINDING 6
#define OUTPUT_BINDING 7
#define ACT_OUT_BINDING 8
#define EVICTED_BINDING 9
#include "shaders/common/interface.h"
#include "shaders/common/step_state.glsl"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/attend.glsl"
#include "shaders/common/activations.glsl"

layout(push_constant, scalar) uniform Push { AttendPush push; };

float act_value(uint e) { return merge_output[e / 4][e % 4]; }
float act_square(uint e) { return 0.0; }

uint position;
HeadTable table;
VisibleBlocks blocks;

void attend_place(uint place, uint end, out uint row, out bool visible) {
    const uint item = min(place, end - 1);
    const uint block = visible_block(blocks, item / kBlockSize);
    const uint token = block * kBlockSize + item % kBlockSize;
    visible = place < end && is_visible(table, position, token);
    row = physical_block(table, block) * kBlockSize + item % kBlockSize;
}

void main() {
    const uint split = gl_WorkGroupID.x;
    const uint kv_head = gl_WorkGroupID.y;
    position = state.position;
    table = head_table(push.table_offset, push.table_stride, kv_head);
    attend_init(kv_head);  // beside the state and the table, not after them
    blocks = visible_blocks(table, position);
    const uint n_active = clamp(blocks.n / kMinBlocks, 1, kMaxSplits);
    if (state.stopped != 0 || split >= n_active) return;
    attend_evicted(split, push.evicted + kv_head, push.evicted == WINNOW_NO_SUMS ? 0 : n_evicted(table, position));
    const uint begin = split * blocks.n / n_active * kBlockSize;
    const uint end = (split + 1) * blocks.n / n_active * kBlockSize;
    attend_range(begin, end, 0.0);
    attend_merge_workgroup();
    if (!attend_finish(kv_head, split, n_active, push.counter + kv_head)) return;

    if (kQuantize != 0) {
        const uint n_blocks = kGroup * kHeadDim / 32;
        store_act(kKvHeads * n_blocks, kv_head * n_blocks, n_blocks);
    }
}
