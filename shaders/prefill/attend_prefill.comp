#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: causal attention of a chunk's queries over the cache, online softmax (FlashAttention, Dao et al. 2022).
// One subgroup handles: kItems (query, head) pairs of one kv head, so that each key and value row it reads serves them
// all. Scores: a lane is a key. Sums: a lane is 8 dimensions of the output. What the lanes share travels by broadcast;
// no shared memory, no barrier.
// Bindings: 0 block table; 1 K pool; 2 V pool; 3 q f16 [n_tokens, n_heads, head_dim], scaled;
//   4 output f16 [n_tokens, n_heads, head_dim]
// Needs: storage16, subgroup arithmetic and ballot.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSubgroupSize = 8;
layout(constant_id = 2) const uint kHeadDim = 64;
layout(constant_id = 3) const uint kGroup = 3;
layout(constant_id = 4) const uint kKvHeads = 3;
layout(constant_id = 5) const uint kItems = 8;
layout(constant_id = 6) const uint kKeys = 4;  // keys per lane in one go; kKeys * kSubgroupSize divides the block
layout(constant_id = 7) const uint kBlockSize = 64;

#define TABLE_BINDING 0
#include "shaders/common/interface.h"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/words.glsl"

layout(push_constant, scalar) uniform Push { AttendPrefillPush push; };
READ_WORDS(key_pool, 1, restrict readonly)
READ_WORDS(value_pool, 2, restrict readonly)
READ_WORDS(query, 3, restrict readonly)
layout(set = 0, binding = 4, scalar) restrict writeonly buffer Output { uvec4 attended[]; };

const uint kUnits = kHeadDim / 8;  // of 8 dimensions
const uint kUnitsPerLane = (kUnits + kSubgroupSize - 1) / kSubgroupSize;
const uint kTile = kKeys * kSubgroupSize;
const float kEmpty = -3.0e38;

float dot8(float s, vec4 a, vec4 b, vec4 c, vec4 d) {
    s = fma(a.x, c.x, s);
    s = fma(a.y, c.y, s);
    s = fma(a.z, c.z, s);
    s = fma(a.w, c.w, s);
    s = fma(b.x, d.x, s);
    s = fma(b.y, d.y, s);
    s = fma(b.z, d.z, s);
    return fma(b.w, d.w, s);
}

void main() {
    const uint lane = gl_SubgroupInvocationID;
    const uint kv_head = gl_WorkGroupID.y;
    const uint n_items = push.n_tokens * kGroup;
    const uint first_item = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * kItems;
    if (first_item >= n_items) return;
    const HeadTable table = head_table(push.table_offset, push.table_stride, kv_head);

    uvec4 q[kItems * kUnitsPerLane];
    vec4 o[kItems * kUnitsPerLane * 2];
    float m[kItems], d[kItems];
    [[unroll]] for (uint t = 0; t < kItems; ++t) {
        const uint item = min(first_item + t, n_items - 1);
        const uint row = ((item / kGroup) * kKvHeads + kv_head) * kGroup + item % kGroup;
        m[t] = kEmpty;
        d[t] = 0.0;
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = lane + u * kSubgroupSize;
            q[t * kUnitsPerLane + u] = unit < kUnits ? query_quad(row * kUnits + unit) : uvec4(0);
            o[(t * kUnitsPerLane + u) * 2] = vec4(0.0);
            o[(t * kUnitsPerLane + u) * 2 + 1] = vec4(0.0);
        }
    }
    const uint first_position = push.position + first_item / kGroup;
    const uint last_position = push.position + min(first_item + kItems - 1, n_items - 1) / kGroup;
    const uint from =
        table.window == 0 || first_position + 1 <= table.window ? 0 : (first_position + 1 - table.window) / kBlockSize;
    const uint n_first = min((table.sink_tokens + kBlockSize - 1) / kBlockSize, from);
    const uint n_blocks = n_first + last_position / kBlockSize + 1 - from;

    for (uint i = 0; i < n_blocks; ++i) {
        const uint block = i < n_first ? i : from + i - n_first;
        const uint first_row = physical_block(table, block) * kBlockSize;
        for (uint tile = 0; tile < kBlockSize; tile += kTile) {
            const uint first_token = block * kBlockSize + tile;
            if (first_token > last_position) break;
            // Scores: this lane's keys against every item.
            float s[kItems * kKeys];
            [[unroll]] for (uint x = 0; x < kItems * kKeys; ++x) s[x] = 0.0;
            [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
                for (uint source = 0; source < kSubgroupSize && u * kSubgroupSize + source < kUnits; ++source) {
                    const uint unit = u * kSubgroupSize + source;
                    vec4 k0[kKeys], k1[kKeys];
                    [[unroll]] for (uint r = 0; r < kKeys; ++r)
                        KV_LOAD(key_pool, first_row + tile + r * kSubgroupSize + lane, unit, k0[r], k1[r])
                    [[unroll]] for (uint t = 0; t < kItems; ++t) {
                        const uvec4 packed = subgroupBroadcast(q[t * kUnitsPerLane + u], source);
                        const vec4 a = vec4(unpackHalf2x16(packed.x), unpackHalf2x16(packed.y));
                        const vec4 b = vec4(unpackHalf2x16(packed.z), unpackHalf2x16(packed.w));
                        [[unroll]] for (uint r = 0; r < kKeys; ++r)
                            s[t * kKeys + r] = dot8(s[t * kKeys + r], a, b, k0[r], k1[r]);
                    }
                }
            }
            // Probabilities relative to the running maximum.
            [[unroll]] for (uint t = 0; t < kItems; ++t) {
                const uint position = push.position + min(first_item + t, n_items - 1) / kGroup;
                float largest = kEmpty;
                [[unroll]] for (uint r = 0; r < kKeys; ++r) {
                    const bool visible = is_visible(table, position, first_token + r * kSubgroupSize + lane);
                    if (!visible) s[t * kKeys + r] = kEmpty;
                    largest = max(largest, s[t * kKeys + r]);
                }
                largest = max(m[t], subgroupMax(largest));
                const float correction = exp(m[t] - largest);
                m[t] = largest;
                d[t] *= correction;
                [[unroll]] for (uint u = 0; u < 2 * kUnitsPerLane; ++u) o[t * kUnitsPerLane * 2 + u] *= correction;
                [[unroll]] for (uint r = 0; r < kKeys; ++r) {
                    const float score = s[t * kKeys + r];
                    const float p = score > kEmpty ? exp(score - largest) : 0.0;
                    s[t * kKeys + r] = p;
                    d[t] += p;
                }
            }
            // Sums: every key's value row, this lane's dimensions.
            [[unroll]] for (uint r = 0; r < kKeys; ++r) {
                for (uint source = 0; source < kSubgroupSize; ++source) {
                    const uint token = first_token + r * kSubgroupSize + source;
                    if (token > last_position) break;
                    [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
                        const uint unit = lane + u * kSubgroupSize;
                        vec4 v0, v1;
                        KV_LOAD(value_pool, first_row + tile + r * kSubgroupSize + source, min(unit, kUnits - 1), v0, v1)
                        [[unroll]] for (uint t = 0; t < kItems; ++t) {
                            const float p = subgroupBroadcast(s[t * kKeys + r], source);
                            const uint place = (t * kUnitsPerLane + u) * 2;
                            o[place] = fma(vec4(p), v0, o[place]);
                            o[place + 1] = fma(vec4(p), v1, o[place + 1]);
                        }
                    }
                }
            }
        }
    }
    [[unroll]] for (uint t = 0; t < kItems; ++t) {
        const float inverse = 1.0 / subgroupAdd(d[t]);
        if (first_item + t >= n_items) continue;
        const uint item = first_item + t;
        const uint row = ((item / kGroup) * kKvHeads + kv_head) * kGroup + item % kGroup;
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = lane + u * kSubgroupSize;
            const vec4 a = o[(t * kUnitsPerLane + u) * 2] * inverse;
            const vec4 b = o[(t * kUnitsPerLane + u) * 2 + 1] * inverse;
            if (unit < kUnits)
                attended[row * kUnits + unit] =
                    uvec4(packHalf2x16(a.xy), packHalf2x16(a.zw), packHalf2x16(b.xy), packHalf2x16(b.zw));
        }
    }
}
