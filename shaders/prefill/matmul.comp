#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: out[t, row] (+)= W[row] . a[t] for the rows of a weight matrix and the tokens of a chunk; f32 accumulation.
// One subgroup handles: kRows rows per lane and kTokens tokens, by itself: no shared memory, no barrier. Each lane
// holds 8 columns of every token in turn and broadcasts them; weights are unpacked once for all kTokens tokens. Made
// for drivers where a load costs far more than arithmetic (software) and as the fallback without matrix units.
// Bindings: 0 weights; 1 f16 rows [.., n_in]; 2 out f32 [n_tokens, out_stride]
// Needs: storage16, subgroup arithmetic and ballot.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_ballot : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSubgroupSize = 8;
layout(constant_id = 2) const uint kTokens = 16;
layout(constant_id = 3) const uint kRows = 4;
layout(constant_id = 4) const uint kBlocks = 18;  // n_in / 32
layout(constant_id = 5) const uint kType = 3;
layout(constant_id = 6) const uint kAdd = 0;  // 1: adds to out (the residual stream)

#define W_BINDING 0
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"

layout(push_constant, scalar) uniform Push { MatmulPush push; };
READ_WORDS(rows_in, 1, restrict readonly)
layout(set = 0, binding = 2, scalar) restrict buffer Out { float rows_out[]; };

const uint kUnits = kBlocks * 4;  // of 8 columns

void main() {
    const uint lane = gl_SubgroupInvocationID;
    const uint subgroup = gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID;
    const uint first_row = subgroup * kSubgroupSize * kRows + lane;
    const uint first_token = gl_WorkGroupID.y * kTokens;
    if (subgroup * kSubgroupSize * kRows >= push.w.n_rows) return;
    const uint n_blocks = push.w.n_rows * kBlocks;

    float sums[kRows * kTokens];
    [[unroll]] for (uint i = 0; i < kRows * kTokens; ++i) sums[i] = 0.0;
    uint row_block[kRows];
    [[unroll]] for (uint r = 0; r < kRows; ++r)
        row_block[r] = min(first_row + r * kSubgroupSize, push.w.n_rows - 1) * kBlocks;

    for (uint chunk = 0; chunk < kUnits; chunk += kSubgroupSize) {
        uvec4 columns[kTokens];
        [[unroll]] for (uint t = 0; t < kTokens; ++t) {
            const uint token = push.first_token + min(first_token + t, push.n_tokens - 1);
            columns[t] = chunk + lane < kUnits ? rows_in_quad(token * kUnits + chunk + lane) : uvec4(0);
        }
        for (uint source = 0; source < kSubgroupSize && chunk + source < kUnits; source += 4) {
            const uint block = (chunk + source) / 4;
            Codes codes[kRows];
            vec4 scales[kRows];
            if (is_quantized(kType)) {
                [[unroll]] for (uint r = 0; r < kRows; ++r) {
                    const RawBlock raw = load_raw(kType, push.w.base_quads, n_blocks, row_block[r] + block);
                    codes[r] = codes_of(kType, raw);
                    scales[r] = scales_of(kType, raw);
                }
            }
            [[unroll]] for (uint q = 0; q < 4; ++q) {
                vec4 w0[kRows], w1[kRows];
                [[unroll]] for (uint r = 0; r < kRows; ++r) {
                    if (is_quantized(kType)) {
                        const uvec4 words = q < 2 ? codes[r].low : codes[r].high;
                        const float scale = q < 2 ? scales[r].x : scales[r].y;
                        const float offset = q < 2 ? scales[r].z : scales[r].w;
                        w0[r] = bytes_float(words[2 * (q % 2)]) * scale + offset;
                        w1[r] = bytes_float(words[2 * (q % 2) + 1]) * scale + offset;
                    } else {
                        w0[r] = load_floats(kType, push.w.base_quads, n_blocks, row_block[r] + block, 2 * q);
                        w1[r] = load_floats(kType, push.w.base_quads, n_blocks, row_block[r] + block, 2 * q + 1);
                    }
                }
                [[unroll]] for (uint t = 0; t < kTokens; ++t) {
                    const uvec4 packed = subgroupBroadcast(columns[t], source + q);
                    const vec4 a = vec4(unpackHalf2x16(packed.x), unpackHalf2x16(packed.y));
                    const vec4 b = vec4(unpackHalf2x16(packed.z), unpackHalf2x16(packed.w));
                    [[unroll]] for (uint r = 0; r < kRows; ++r) {
                        float s = sums[r * kTokens + t];
                        s = fma(w0[r].x, a.x, s);
                        s = fma(w0[r].y, a.y, s);
                        s = fma(w0[r].z, a.z, s);
                        s = fma(w0[r].w, a.w, s);
                        s = fma(w1[r].x, b.x, s);
                        s = fma(w1[r].y, b.y, s);
                        s = fma(w1[r].z, b.z, s);
                        sums[r * kTokens + t] = fma(w1[r].w, b.w, s);
                    }
                }
            }
        }
    }
    [[unroll]] for (uint t = 0; t < kTokens; ++t) {
        if (first_token + t >= push.n_tokens) break;
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            const uint row = first_row + r * kSubgroupSize;
            if (row >= push.w.n_rows) continue;
            const uint at = (first_token + t) * push.out_stride + push.first_row + row;
            if (kAdd != 0) rows_out[at] += sums[r * kTokens + t];
            else rows_out[at] = sums[r * kTokens + t];
        }
    }
}
