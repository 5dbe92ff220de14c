#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: brings the sums of what left each windowed head's view (RazorAttention's compensation token) to what a
// query at the end of the cache needs: adds the keys and values of tokens that have left since, or takes away those
// that a shorter cache shows again. A ring still has them: what the query before saw is overwritten by the next append
// at the earliest.
// One workgroup handles: one kv head; an invocation 8 dimensions of the keys or the values.
// Bindings: 0 state; 1 block table; 2 K pool; 3 V pool; 4 sums, evicted.glsl; 5 tokens in each u32 [n_layers *
// n_kv_heads]
// Needs: storage16.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 32;
layout(constant_id = 1) const uint kHeadDim = 64;
layout(constant_id = 2) const uint kBlockSize = 64;

#define STATE_BINDING 0
#define TABLE_BINDING 1
#include "shaders/common/interface.h"
#include "shaders/common/step_state.glsl"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/words.glsl"
#include "shaders/common/evicted.glsl"

layout(push_constant, scalar) uniform Push { SumEvictedPush push; };
READ_WORDS(key_pool, 2, restrict readonly)
READ_WORDS(value_pool, 3, restrict readonly)
layout(set = 0, binding = 4, scalar) restrict buffer Sums { uvec2 sums[]; };
layout(set = 0, binding = 5, scalar) restrict buffer SumCounts { uint sum_counts[]; };

const uint kBatch = 4;  // rows on their way at once

void main() {
    const uint kv_head = gl_WorkGroupID.y;
    const bool after_step = push.n_tokens == WINNOW_AFTER_STEP;
    if (after_step && state.stopped != 0) return;
    const HeadTable table = head_table(push.table_offset, push.table_stride, kv_head);
    const uint had = sum_counts[push.evicted + kv_head];
    const uint wanted = n_evicted(table, after_step ? state.position + 1 : push.n_tokens);
    if (had == wanted) return;
    const bool taken_away = had > wanted;
    const uint begin = table.sink_tokens + min(had, wanted);
    const uint end = table.sink_tokens + max(had, wanted);
    for (uint item = gl_LocalInvocationIndex; item < 2 * kRowUnits; item += kGroupSize) {
        const bool is_value = item >= kRowUnits;
        const uint unit = item % kRowUnits;
        const uint at = (push.evicted + kv_head) * 2 * kHeadDim + item * 8;
        uvec2 sum[8];
        [[unroll]] for (uint e = 0; e < 8; ++e) sum[e] = sums[at + e];
        for (uint base = begin; base < end; base += kBatch) {
            vec4 a[kBatch], b[kBatch];
            [[unroll]] for (uint k = 0; k < kBatch; ++k) {
                const uint token = min(base + k, end - 1);
                const uint row = physical_block(table, token / kBlockSize) * kBlockSize + token % kBlockSize;
                if (is_value) KV_LOAD(value_pool, row, unit, a[k], b[k])
                else KV_LOAD(key_pool, row, unit, a[k], b[k])
            }
            [[unroll]] for (uint k = 0; k < kBatch; ++k) {
                if (base + k >= end) continue;
                [[unroll]] for (uint e = 0; e < 8; ++e) {
                    const float x = e < 4 ? a[k][e % 4] : b[k][e % 4];
                    sum[e] = add_sums(sum[e], to_sum(taken_away ? -x : x));
                }
            }
        }
        [[unroll]] for (uint e = 0; e < 8; ++e) sums[at + e] = sum[e];
    }
    barrier();  // all have read it
    if (gl_LocalInvocationIndex == 0) sum_counts[push.evicted + kv_head] = wanted;
}
