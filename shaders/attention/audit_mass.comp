#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: the captured mass of each query head, exactly: exp(lse over what was attended - lse over everything that
// the head sees), from a pass over the keys alone; and the same without the sinks, which hold much and mean little.
// One workgroup handles: one of kMaxSplits ranges of one kv head's tokens; the last to arrive merges.
// Bindings: 0 state; 1 block table; 2 K pool; 3 q f32, scaled; 4 lse over the attended tokens f32 [n_heads]; 5 partial
// (m, d) of
//   all tokens and of the sinks [n_kv_heads, kMaxSplits, kGroup]; 6 counters; 7 records vec2 (mass, mass without sinks)
// Needs: storage16, subgroup arithmetic and shuffle.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 64;
layout(constant_id = 1) const uint kHeadDim = 64;
layout(constant_id = 2) const uint kGroup = 3;
layout(constant_id = 3) const uint kSubgroups = 8;
layout(constant_id = 4) const uint kMaxSplits = 8;
layout(constant_id = 5) const uint kBlockSize = 64;

#define STATE_BINDING 0
#define TABLE_BINDING 1
#include "shaders/common/interface.h"
#include "shaders/common/step_state.glsl"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/words.glsl"

layout(push_constant, scalar) uniform Push { AuditPush push; };
READ_WORDS(key_pool, 2, restrict readonly)
layout(set = 0, binding = 3, scalar) restrict readonly buffer Query { vec4 query[]; };
layout(set = 0, binding = 4, scalar) restrict readonly buffer Lse { float lse[]; };
layout(set = 0, binding = 5, scalar) coherent buffer Partials { vec4 partials[]; };
layout(set = 0, binding = 6, scalar) coherent buffer Counters { uint counters[]; };
layout(set = 0, binding = 7, scalar) restrict writeonly buffer Records { vec2 records[]; };

const uint kLanes = 8;
const uint kUnits = kHeadDim / 8;
const uint kUnitsPerLane = (kUnits + kLanes - 1) / kLanes;
const uint kSlots = kGroupSize / kLanes;
const float kEmpty = -3.0e38;
#include "shaders/common/softmax_state.glsl"
// A head that gives all but this to the sinks has nothing else to lose, and f32 could not tell how much of it was kept.
const float kLeastRest = 1.0e-3;

shared vec4 states[kSubgroups * kGroup];
shared uint arrived;

void merge_states(inout vec4 a, vec4 b) {
    vec2 all = a.xy, sinks = a.zw;
    merge_state(all, b.xy);
    merge_state(sinks, b.zw);
    a = vec4(all, sinks);
}

void main() {
    if (state.stopped != 0) return;
    const uint split = gl_WorkGroupID.x;
    const uint kv_head = gl_WorkGroupID.y;
    const uint position = state.position;
    const HeadTable table = head_table(push.table_offset, push.table_stride, kv_head);
    const VisibleBlocks blocks = visible_blocks(table, position);
    const uint n_active = clamp(blocks.n, 1, kMaxSplits);
    if (split >= n_active) return;
    const uint lane = gl_SubgroupInvocationID % kLanes;
    const uint slot = gl_LocalInvocationIndex / kLanes;

    vec4 q[kGroup * kUnitsPerLane * 2];
    vec4 md[kGroup];  // (m, d) of all tokens, (m, d) of the sinks
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        md[g] = vec4(kEmpty, 0.0, kEmpty, 0.0);
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = lane + u * kLanes;
            const uint at = ((kv_head * kGroup + g) * kHeadDim + unit * 8) / 4;
            q[(g * kUnitsPerLane + u) * 2] = unit < kUnits ? query[at] : vec4(0.0);
            q[(g * kUnitsPerLane + u) * 2 + 1] = unit < kUnits ? query[at + 1] : vec4(0.0);
        }
    }
    const uint begin = split * blocks.n / n_active * kBlockSize;
    const uint end = (split + 1) * blocks.n / n_active * kBlockSize;
    for (uint i = begin; i < end; i += kSlots) {
        const uint item = min(i + slot, end - 1);
        const uint block = visible_block(blocks, item / kBlockSize);
        const uint token = block * kBlockSize + item % kBlockSize;
        const bool visible = i + slot < end && is_visible(table, position, token);
        const uint row = physical_block(table, block) * kBlockSize + item % kBlockSize;
        float s[kGroup];
        [[unroll]] for (uint g = 0; g < kGroup; ++g) s[g] = 0.0;
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = lane + u * kLanes;
            vec4 a = vec4(0.0), b = vec4(0.0);
            if (visible && unit < kUnits) KV_LOAD(key_pool, row, unit, a, b)
            [[unroll]] for (uint g = 0; g < kGroup; ++g)
                s[g] += dot(q[(g * kUnitsPerLane + u) * 2], a) + dot(q[(g * kUnitsPerLane + u) * 2 + 1], b);
        }
        [[unroll]] for (uint g = 0; g < kGroup; ++g) {
            [[unroll]] for (uint d = 1; d < kLanes; d <<= 1) s[g] += subgroupShuffleXor(s[g], d);
            if (visible) {
                const vec2 one = vec2(s[g], 1.0);
                merge_states(md[g], vec4(one, token < push.sink_tokens ? one : vec2(kEmpty, 0.0)));
            }
        }
    }
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        for (uint d = kLanes; d < gl_SubgroupSize; d <<= 1) merge_states(md[g], subgroupShuffleXor(md[g], d));
        if (gl_SubgroupInvocationID == 0) states[gl_SubgroupID * kGroup + g] = md[g];
    }
    barrier();
    const uint own = (kv_head * kMaxSplits + split) * kGroup;
    if (gl_LocalInvocationIndex < kGroup) {
        vec4 total = states[gl_LocalInvocationIndex];
        for (uint s = 1; s < kSubgroups; ++s) merge_states(total, states[s * kGroup + gl_LocalInvocationIndex]);
        partials[own + gl_LocalInvocationIndex] = total;
    }
    memoryBarrierBuffer();
    barrier();
    if (gl_LocalInvocationIndex == 0) {
        arrived = atomicAdd(counters[push.counter + kv_head], 1);
        if (arrived == n_active - 1) counters[push.counter + kv_head] = 0;
    }
    barrier();
    if (arrived != n_active - 1) return;
    memoryBarrierBuffer();
    if (gl_LocalInvocationIndex < kGroup) {
        const uint g = gl_LocalInvocationIndex;
        vec4 total = partials[kv_head * kMaxSplits * kGroup + g];
        for (uint s = 1; s < n_active; ++s) merge_states(total, partials[(kv_head * kMaxSplits + s) * kGroup + g]);
        // Relative to the maximum over everything: all, attended, sinks.
        const float everything = total.y;
        const float captured = exp(lse[kv_head * kGroup + g] - total.x);
        const float sinks = total.w * exp(total.z - total.x);
        const float rest = everything - sinks;
        records[push.first_record + kv_head * kGroup + g] =
            vec2(captured / everything, rest > kLeastRest * everything ? (captured - sinks) / rest : 1.0);
    }
}
