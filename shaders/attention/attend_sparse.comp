#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: softmax attention of one token over the sinks, the selected tokens and everything from the list's
// middle_end on (the window and the open block); the log-sum-exp over them goes out for the audit. Optionally value
// rows with little weight are not read (BLASST). A windowed head attends to what it sees, as in the dense stage.
// One workgroup handles: one of kMaxSplits ranges of the attended tokens of one kv head, all its query heads at once.
// Bindings: 0 state; 1 block table; 2 K pool; 3 V pool; 4 q f32, scaled; 5 partial states; 6 arrival counters;
//   7 output f32;
//   8 output as quantised activations; 9 lists u32; 10 controls; 11 head map u32; 12 lse f32 [n_heads];
//   13 tokens attended u32 (host visible), by layer and kv head;
//   14 sums of what left the windows, evicted.glsl
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
layout(constant_id = 2) const uint kGroup = 3;
layout(constant_id = 3) const uint kKvHeads = 3;
layout(constant_id = 4) const uint kLanes = 8;
layout(constant_id = 5) const uint kSubgroups = 8;
layout(constant_id = 6) const uint kMaxSplits = 8;
layout(constant_id = 7) const uint kTokensInFlight = 2;
layout(constant_id = 8) const uint kBlockSize = 64;
layout(constant_id = 9) const uint kQuantize = 1;
layout(constant_id = 10) const uint kMinTokens = 64;  // tokens that make a split worth its merge
layout(constant_id = 11) const uint kUnit = 1;        // tokens of a list entry
layout(constant_id = 12) const bool kSkipValues = false;
layout(constant_id = 13) const bool kEvicted = false;

#define STATE_BINDING 0
#define TABLE_BINDING 1
#define KEY_BINDING 2
#define VALUE_BINDING 3
#define QUERY_BINDING 4
#define PARTIAL_BINDING 5
#define COUNTER_BINDING 6
#define OUTPUT_BINDING 7
#define ACT_OUT_BINDING 8
#define EVICTED_BINDING 14
#include "shaders/common/interface.h"
#include "shaders/common/step_state.glsl"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/attend.glsl"
#include "shaders/common/activations.glsl"

layout(push_constant, scalar) uniform Push { AttendSparsePush push; };
layout(set = 0, binding = 9, scalar) restrict readonly buffer Lists { uint lists[]; };
layout(set = 0, binding = 10, scalar) restrict readonly buffer Controls { SelectControl controls[]; };
layout(set = 0, binding = 11, scalar) restrict readonly buffer HeadMaps { uint head_maps[]; };
layout(set = 0, binding = 12, scalar) restrict writeonly buffer Lse { float lse[]; };
layout(set = 0, binding = 13, scalar) restrict writeonly buffer Counts { uint attended_counts[]; };

float act_value(uint e) { return merge_output[e / 4][e % 4]; }
float act_square(uint e) { return 0.0; }

// What is attended: n_first sinks, the listed units as far as they lie in the middle region, then everything from
// `recent` on.
uint position, list_at, n_first, n_list, recent;
HeadTable table;

void attend_place(uint place, uint end, out uint row, out bool visible) {
    const uint item = min(place, end - 1);
    visible = place < end;
    uint token;
    if (item < n_first) {
        token = item;
    } else if (item < n_first + n_list) {
        token = lists[list_at + (item - n_first) / kUnit] * kUnit + (item - n_first) % kUnit;
        visible = visible && token >= n_first && token < recent;
        token = min(token, position);
    } else {
        token = recent + item - n_first - n_list;
    }
    row = physical_block(table, token / kBlockSize) * kBlockSize + token % kBlockSize;
}

void main() {
    const uint split = gl_WorkGroupID.x;
    const uint kv_head = gl_WorkGroupID.y;
    position = state.position;
    table = head_table(push.table_offset, push.table_stride, kv_head);
    const uint list_head = head_maps[push.head_map + kv_head];
    list_at = push.list_offset + list_head * push.list_stride;

    attend_init(kv_head);  // beside the state and the table, not after them

    uint n_middle = 0;
    if (table.window != 0) {
        recent = position + 1 > table.window ? position + 1 - table.window : 0;
        n_first = min(table.sink_tokens, recent);
        n_list = 0;
    } else if (push.window_only != 0) {
        const uint beyond = position + 1 > push.window ? position + 1 - push.window : 0;
        recent = min(beyond, position) / kBlockSize * kBlockSize;
        n_first = min(push.sink_tokens, recent);
        n_list = 0;
    } else {
        recent = min(controls[push.control + list_head].middle_end, position + 1);
        n_first = min(push.sink_tokens, recent);
        n_list = controls[push.control + list_head].n_list * kUnit;
        n_middle = controls[push.control + list_head].n_tokens;
    }
    const uint n = n_first + n_middle + position + 1 - recent;
    const uint n_items = n_first + n_list + position + 1 - recent;
    const uint n_active = clamp(n_items / kMinTokens, 1, kMaxSplits);
    if (state.stopped != 0 || split >= n_active) return;
    attend_evicted(split, push.evicted + kv_head, push.evicted == WINNOW_NO_SUMS ? 0 : n_evicted(table, position));
    const uint begin = split * n_items / n_active;
    const uint end = (split + 1) * n_items / n_active;
    attend_range(begin, end, min(push.skip / float(n), 1.0));  // the maximum itself is never skipped
    attend_merge_workgroup();
    if (!attend_finish(kv_head, split, n_active, push.counter + kv_head)) return;

    if (gl_LocalInvocationIndex == 0)
        attended_counts[position % WINNOW_TOKEN_RING * push.count_stride + push.first_count + kv_head] = n;
    if (gl_LocalInvocationIndex < kGroup)
        lse[kv_head * kGroup + gl_LocalInvocationIndex] = attend_lse(gl_LocalInvocationIndex);
    if (kQuantize != 0) {
        const uint n_blocks = kGroup * kHeadDim / 32;
        store_act(kKvHeads * n_blocks, kv_head * n_blocks, n_blocks);
    }
}
