#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: out[t, row] (+)= W[row] . a[t] for the rows of a weight matrix and the tokens of a chunk; f32 accumulation.
// The variant for software drivers, where what crosses lanes is a loop over them and loads cost most: weights are the
// same in all lanes, so that one load and one unpacking serves all tokens of the subgroup, and a lane keeps the columns
// of its own tokens for kRows rows.
// One subgroup handles: kTokens tokens per lane and kRows rows.
// Bindings: 0 weights; 1 f16 rows [.., n_in]; 2 out f32 [n_tokens, out_stride]
// Needs: storage16, subgroups, texel loads.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSubgroupSize = 8;
layout(constant_id = 2) const uint kTokens = 4;
layout(constant_id = 3) const uint kRows = 8;
layout(constant_id = 4) const uint kBlocks = 18;  // n_in / 32
layout(constant_id = 5) const uint kType = 3;
layout(constant_id = 6) const uint kAdd = 0;  // 1: adds to out (the residual stream)

#define W_BINDING 0
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"

layout(push_constant, scalar) uniform Push { MatmulPush push; };
READ_WORDS(rows_in, 1, restrict readonly)
layout(set = 0, binding = 2, scalar) restrict buffer Out { float rows_out[]; };

void main() {
    const uint lane = gl_SubgroupInvocationID;
    const uint first_row = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * kRows;
    const uint first_token = gl_WorkGroupID.y * kSubgroupSize * kTokens + lane;
    const uint n_blocks = push.w.n_rows * kBlocks;

    float sums[kRows * kTokens];
    [[unroll]] for (uint i = 0; i < kRows * kTokens; ++i) sums[i] = 0.0;
    uint token_at[kTokens];
    [[unroll]] for (uint t = 0; t < kTokens; ++t)
        token_at[t] = (push.first_token + min(first_token + t * kSubgroupSize, push.n_tokens - 1)) * kBlocks * 4;

    for (uint block = 0; block < kBlocks; ++block) {
        vec4 x[kTokens * 8];
        float total_low[kTokens], total_high[kTokens];  // what the offsets of a block multiply
        [[unroll]] for (uint t = 0; t < kTokens; ++t) {
            [[unroll]] for (uint q = 0; q < 4; ++q) {
                const uvec4 packed = rows_in_quad(token_at[t] + block * 4 + q);
                x[t * 8 + 2 * q] = vec4(unpackHalf2x16(packed.x), unpackHalf2x16(packed.y));
                x[t * 8 + 2 * q + 1] = vec4(unpackHalf2x16(packed.z), unpackHalf2x16(packed.w));
            }
            if (!is_quantized(kType)) continue;
            const vec4 low = x[t * 8] + x[t * 8 + 1] + x[t * 8 + 2] + x[t * 8 + 3];
            const vec4 high = x[t * 8 + 4] + x[t * 8 + 5] + x[t * 8 + 6] + x[t * 8 + 7];
            total_low[t] = low.x + low.y + low.z + low.w;
            total_high[t] = high.x + high.y + high.z + high.w;
        }
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            const RawBlock raw = load_raw(kType, push.w.base_quads, n_blocks, min(first_row + r, push.w.n_rows - 1) * kBlocks + block);
            float low[kTokens], high[kTokens];
            [[unroll]] for (uint t = 0; t < kTokens; ++t) low[t] = high[t] = 0.0;
            if (!is_quantized(kType)) {
                [[unroll]] for (uint k = 0; k < 8; ++k) {
                    const vec4 w = floats_of(kType, raw.quads[kType == TYPE_F32 ? k : k / 2], k);
                    [[unroll]] for (uint t = 0; t < kTokens; ++t) low[t] += dot(w, x[t * 8 + k]);
                }
                [[unroll]] for (uint t = 0; t < kTokens; ++t) sums[r * kTokens + t] += low[t];
                continue;
            }
            const Codes c = codes_of(kType, raw);
            const vec4 s = scales_of(kType, raw);
            [[unroll]] for (uint k = 0; k < 4; ++k) {
                const vec4 w = bytes_float(c.low[k]);
                [[unroll]] for (uint t = 0; t < kTokens; ++t) low[t] += dot(w, x[t * 8 + k]);
            }
            [[unroll]] for (uint k = 0; k < 4; ++k) {
                const vec4 w = bytes_float(c.high[k]);
                [[unroll]] for (uint t = 0; t < kTokens; ++t) high[t] += dot(w, x[t * 8 + 4 + k]);
            }
            [[unroll]] for (uint t = 0; t < kTokens; ++t) {
                const float product = has_half_scales(kType) ? s.x * low[t] + s.y * high[t] : s.x * (low[t] + high[t]);
                sums[r * kTokens + t] += product + s.z * total_low[t] + s.w * total_high[t];
            }
        }
    }
    [[unroll]] for (uint t = 0; t < kTokens; ++t) {
        const uint token = first_token + t * kSubgroupSize;
        if (token >= push.n_tokens) continue;
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            if (first_row + r >= push.w.n_rows) continue;
            const uint at = token * push.out_stride + push.first_row + first_row + r;
            if (kAdd != 0) rows_out[at] += sums[r * kTokens + t];
            else rows_out[at] = sums[r * kTokens + t];
        }
    }
}
