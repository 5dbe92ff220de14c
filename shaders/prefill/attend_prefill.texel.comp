#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: causal attention of a chunk's queries over the cache, online softmax (FlashAttention, Dao et al. 2022). The
// variant for software drivers, where what crosses lanes is a loop over them and loads cost most: a lane keeps whole
// (query, head) pairs with their sums, and keys and values are the same in all lanes, so that one load serves all pairs
// of the subgroup.
// One subgroup handles: kItems (query, head) pairs per lane, of one kv head.
// Bindings: 0 block table; 1 K pool; 2 V pool; 3 q f16 [n_tokens, n_heads, head_dim], scaled;
//   4 output f16 [n_tokens, n_heads, head_dim]
// Needs: storage16, subgroups, texel loads.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSubgroupSize = 8;
layout(constant_id = 2) const uint kHeadDim = 64;
layout(constant_id = 3) const uint kGroup = 3;
layout(constant_id = 4) const uint kKvHeads = 3;
layout(constant_id = 5) const uint kItems = 4;
layout(constant_id = 6) const uint kKeys = 4;  // taken at once; divides the block
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
const float kEmpty = -3.0e38;

void main() {
    const uint kv_head = gl_WorkGroupID.y;
    const uint n_items = push.n_tokens * kGroup;
    const uint first_item = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * kItems * kSubgroupSize;
    const HeadTable table = head_table(push.table_offset, push.table_stride, kv_head);

    uint row[kItems], position[kItems];
    vec4 q[kItems * kUnits * 2], o[kItems * kUnits * 2];
    float m[kItems], d[kItems];
    [[unroll]] for (uint t = 0; t < kItems; ++t) {
        const uint item = min(first_item + t * kSubgroupSize + gl_SubgroupInvocationID, n_items - 1);
        row[t] = ((item / kGroup) * kKvHeads + kv_head) * kGroup + item % kGroup;
        position[t] = push.position + item / kGroup;
        m[t] = kEmpty;
        d[t] = 0.0;
        [[unroll]] for (uint u = 0; u < kUnits; ++u) {
            const uvec4 packed = query_quad(row[t] * kUnits + u);
            q[(t * kUnits + u) * 2] = vec4(unpackHalf2x16(packed.x), unpackHalf2x16(packed.y));
            q[(t * kUnits + u) * 2 + 1] = vec4(unpackHalf2x16(packed.z), unpackHalf2x16(packed.w));
            o[(t * kUnits + u) * 2] = o[(t * kUnits + u) * 2 + 1] = vec4(0.0);
        }
    }
    const uint first_position = push.position + min(first_item, n_items - 1) / kGroup;
    const uint last_position = push.position + min(first_item + kItems * kSubgroupSize - 1, n_items - 1) / kGroup;
    const uint from =
        table.window == 0 || first_position + 1 <= table.window ? 0 : (first_position + 1 - table.window) / kBlockSize;
    const uint n_first = min((table.sink_tokens + kBlockSize - 1) / kBlockSize, from);
    const uint n_blocks = n_first + last_position / kBlockSize + 1 - from;

    for (uint i = 0; i < n_blocks; ++i) {
        const uint block = i < n_first ? i : from + i - n_first;
        const uint first_row = physical_block(table, block) * kBlockSize;
        const uint n_tokens = min(kBlockSize, last_position + 1 - block * kBlockSize);
        for (uint tile = 0; tile < n_tokens; tile += kKeys) {
            uint rows[kKeys];  // of a token that nobody sees yet its neighbour's: what stands there may be no number
            [[unroll]] for (uint r = 0; r < kKeys; ++r) rows[r] = first_row + min(tile + r, n_tokens - 1);
            float s[kItems * kKeys];
            [[unroll]] for (uint x = 0; x < kItems * kKeys; ++x) s[x] = 0.0;
            [[unroll]] for (uint u = 0; u < kUnits; ++u) {
                [[unroll]] for (uint r = 0; r < kKeys; ++r) {
                    vec4 a, b;
                    KV_LOAD(key_pool, rows[r], u, a, b)
                    [[unroll]] for (uint t = 0; t < kItems; ++t)
                        s[t * kKeys + r] += dot(q[(t * kUnits + u) * 2], a) + dot(q[(t * kUnits + u) * 2 + 1], b);
                }
            }
            [[unroll]] for (uint t = 0; t < kItems; ++t) {
                float largest = m[t];
                [[unroll]] for (uint r = 0; r < kKeys; ++r) {
                    if (tile + r >= n_tokens || !is_visible(table, position[t], block * kBlockSize + tile + r)) s[t * kKeys + r] = kEmpty;
                    largest = max(largest, s[t * kKeys + r]);
                }
                const float correction = exp(m[t] - largest);
                m[t] = largest;
                d[t] *= correction;
                [[unroll]] for (uint u = 0; u < 2 * kUnits; ++u) o[t * kUnits * 2 + u] *= correction;
                [[unroll]] for (uint r = 0; r < kKeys; ++r) {
                    const float p = s[t * kKeys + r] > kEmpty ? exp(s[t * kKeys + r] - largest) : 0.0;
                    s[t * kKeys + r] = p;
                    d[t] += p;
                }
            }
            [[unroll]] for (uint u = 0; u < kUnits; ++u) {
                [[unroll]] for (uint r = 0; r < kKeys; ++r) {
                    vec4 a, b;
                    KV_LOAD(value_pool, rows[r], u, a, b)
                    [[unroll]] for (uint t = 0; t < kItems; ++t) {
                        o[(t * kUnits + u) * 2] += s[t * kKeys + r] * a;
                        o[(t * kUnits + u) * 2 + 1] += s[t * kKeys + r] * b;
                    }
                }
            }
        }
    }
    [[unroll]] for (uint t = 0; t < kItems; ++t) {
        if (first_item + t * kSubgroupSize + gl_SubgroupInvocationID >= n_items) continue;
        const float inverse = 1.0 / d[t];
        [[unroll]] for (uint u = 0; u < kUnits; ++u) {
            const vec4 a = o[(t * kUnits + u) * 2] * inverse;
            const vec4 b = o[(t * kUnits + u) * 2 + 1] * inverse;
            attended[row[t] * kUnits + u] =
                uvec4(packHalf2x16(a.xy), packHalf2x16(a.zw), packHalf2x16(b.xy), packHalf2x16(b.zw));
        }
    }
}
