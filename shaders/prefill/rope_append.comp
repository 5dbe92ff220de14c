#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: bias, QK norm and RoPE of a chunk's projections; q goes out as f16 rows, keys and values into the cache.
// One subgroup handles one head of one token.
// Bindings: 0 projections f32 [n_tokens, n_heads + 2 n_kv_heads, head_dim]; 1 rope vec2; 2 block table;
//   3 params f32 [q_norm][k_norm][bias]; 4 q f16 [n_tokens, n_heads, head_dim], scaled; 5 K pool; 6 V pool
// Needs: storage16, subgroup arithmetic.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kHeadDim = 64;
layout(constant_id = 2) const uint kHeads = 9;
layout(constant_id = 3) const uint kKvHeads = 3;
layout(constant_id = 4) const uint kRot = 64;
layout(constant_id = 5) const uint kNeox = 0;
layout(constant_id = 6) const uint kQkNorm = 0;
layout(constant_id = 7) const uint kBias = 0;
layout(constant_id = 8) const uint kBlockSize = 64;
layout(constant_id = 9) const uint kSubgroups = 1;

#define TABLE_BINDING 2
#include "shaders/common/interface.h"
#include "shaders/common/kv.glsl"
#if KV_TYPE == 2 || KV_TYPE == 8
shared float kv_row[kSubgroups * kHeadDim];
#endif
#include "shaders/common/kv_store.glsl"
#include "shaders/common/kv_quantize.glsl"

layout(push_constant, scalar) uniform Push { RopeAppendPush push; };
layout(set = 0, binding = 0, scalar) restrict readonly buffer Projections { float projections[]; };
layout(set = 0, binding = 1, scalar) restrict readonly buffer Rope { vec2 rope[]; };
layout(set = 0, binding = 3, scalar) restrict readonly buffer Params { float params[]; };
layout(set = 0, binding = 4, scalar) restrict writeonly buffer Query { uint16_t query[]; };
KV_POOL(key_pool, 5, restrict writeonly)
KV_POOL(value_pool, 6, restrict writeonly)

const uint kAllHeads = kHeads + 2 * kKvHeads;

void main() {
    const uint head = gl_WorkGroupID.x;
    const uint token = gl_WorkGroupID.y * gl_NumSubgroups + gl_SubgroupID;
    if (token >= push.n_tokens) return;
    const uint position = push.position + token;
    const bool is_q = head < kHeads;
    const bool is_k = !is_q && head < kHeads + kKvHeads;
    const bool rotated = is_q || is_k;
    const uint from = (token * kAllHeads + head) * kHeadDim;
    const uint bias = (kQkNorm != 0 ? 2 * kHeadDim : 0) + head * kHeadDim;

    float norm = 1.0;
    if (kQkNorm != 0 && rotated) {
        float squares = 0.0;
        for (uint i = gl_SubgroupInvocationID; i < kHeadDim; i += gl_SubgroupSize)
            squares += projections[from + i] * projections[from + i];
        norm = inversesqrt(subgroupAdd(squares) / float(kHeadDim) + push.eps);
    }
    uint row = 0;
    if (!is_q) {
        const uint kv_head = is_k ? head - kHeads : head - kHeads - kKvHeads;
        const HeadTable table = head_table(push.table_offset, push.table_stride, kv_head);
        row = physical_block(table, position / kBlockSize) * kBlockSize + position % kBlockSize;
    }
    for (uint pair = gl_SubgroupInvocationID; pair < kHeadDim / 2; pair += gl_SubgroupSize) {
        const bool turn = rotated && 2 * pair < kRot;
        const uvec2 dims = turn && kNeox != 0 ? uvec2(pair, pair + kRot / 2) : uvec2(2 * pair, 2 * pair + 1);
        vec2 y = vec2(projections[from + dims.x], projections[from + dims.y]);
        if (kBias != 0) y += vec2(params[bias + dims.x], params[bias + dims.y]);
        if (kQkNorm != 0 && rotated) {
            const uint weight = is_q ? 0 : kHeadDim;
            y *= norm * vec2(params[weight + dims.x], params[weight + dims.y]);
        }
        if (turn) {
            const vec2 low = rope[push.rope_offset + (position & 255) * (kRot / 2) + pair];
            const vec2 high = rope[push.rope_offset + (256 + (position >> 8)) * (kRot / 2) + pair];
            const float c = high.x * low.x - high.y * low.y;
            const float s = high.y * low.x + high.x * low.y;
            y = vec2(y.x * c - y.y * s, y.x * s + y.y * c);
        }
        if (is_q) {
            const uint at = (token * kHeads + head) * kHeadDim;
            query[at + dims.x] = uint16_t(packHalf2x16(vec2(y.x * push.scale, 0.0)));
            query[at + dims.y] = uint16_t(packHalf2x16(vec2(y.y * push.scale, 0.0)));
        } else {
#if KV_QUANTIZED
            kv_row[gl_SubgroupID * kHeadDim + dims.x] = y.x;
            kv_row[gl_SubgroupID * kHeadDim + dims.y] = y.y;
#else
            if (is_k) {
                KV_STORE(key_pool, row, dims.x, y.x);
                KV_STORE(key_pool, row, dims.y, y.y);
            } else {
                KV_STORE(value_pool, row, dims.x, y.x);
                KV_STORE(value_pool, row, dims.y, y.y);
            }
#endif
        }
    }
#if KV_QUANTIZED
    if (is_q) return;
    subgroupMemoryBarrierShared();
    subgroupBarrier();
    const uint at = gl_SubgroupID * kHeadDim;
    if (is_k) KV_STORE_ROW(key_pool, row, at, gl_SubgroupInvocationID, gl_SubgroupSize)
    else KV_STORE_ROW(value_pool, row, at, gl_SubgroupInvocationID, gl_SubgroupSize)
#endif
}
