#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: out[t, row] (+)= W[row] . a[t], as matmul.comp, by cooperative matrices: f16 inputs, f32 accumulation.
// One group handles: a tile of tokens x rows; each subgroup a part of it. A step is one block of 32 columns: its weights
// are unpacked to f16 into shared memory beside the activations, while the next block is on its way into registers.
// Weights: f16 is exact; other types round once to f16 (relative 2^-11; f32 and bf16 clamped to its range).
// Activations: the f16 rows that all prefill stages pass on; a value beyond 65504 is infinite there already.
// Bindings: 0 weights; 1 f16 rows [.., n_in]; 2 out f32 [n_tokens, out_stride]
// Needs: storage16, f16 arithmetic, cooperative matrix, subgroups.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSubgroupSize = 32;
layout(constant_id = 2) const uint kM = 16;  // shape of a matrix: tokens x rows x columns
layout(constant_id = 3) const uint kN = 16;
layout(constant_id = 4) const uint kK = 16;
layout(constant_id = 5) const uint kTokenParts = 2;   // matrices of a subgroup
layout(constant_id = 6) const uint kRowParts = 4;
layout(constant_id = 7) const uint kTokenGroups = 4;  // subgroups of a group
layout(constant_id = 8) const uint kRowGroups = 2;
layout(constant_id = 9) const uint kStages = 2;       // tiles in shared memory: with two, one barrier a step
layout(constant_id = 10) const uint kBlocks = 18;     // n_in / 32
layout(constant_id = 11) const uint kType = 2;
layout(constant_id = 12) const uint kAdd = 0;         // 1: adds to out (the residual stream)

#define W_BINDING 0
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"

layout(push_constant, scalar) uniform Push { MatmulPush push; };
layout(set = 0, binding = 1, scalar) restrict readonly buffer Rows { uvec4 rows_in[]; };
layout(set = 0, binding = 2, scalar) restrict buffer Out { float rows_out[]; };

const uint kThreads = kTokenGroups * kRowGroups * kSubgroupSize;
const uint kTileTokens = kTokenGroups * kTokenParts * kM;
const uint kTileRows = kRowGroups * kRowParts * kN;
const uint kStride = 5;  // quads (8 halves) of a row in shared memory: 32 columns and padding against bank conflicts
const uint kStageQuads = (kTileTokens + kTileRows) * kStride;
const uint kRowQuads = kBlocks * 4;
// What a thread fetches: quads of activations, and halves of blocks (16 weights) in raw quads.
const uint kTokenLoads = (kTileTokens * 4 + kThreads - 1) / kThreads;
const uint kRowLoads = (kTileRows * 2 + kThreads - 1) / kThreads;
const uint kRawQuads = kType == TYPE_F32 ? 4 : kType == TYPE_F16 || kType == TYPE_BF16 ? 2 : 1;

shared uvec4 tile[kStages * kStageQuads];

uvec4 token_raw[kTokenLoads];
uvec4 row_raw[kRowLoads * kRawQuads];
vec2 row_scale[kRowLoads];  // scale and offset of the half

void fetch(uint first_token, uint first_row, uint block) {
    [[unroll]] for (uint i = 0; i < kTokenLoads; ++i) {
        const uint unit = i * kThreads + gl_LocalInvocationIndex;
        const uint token = push.first_token + min(first_token + unit / 4, push.n_tokens - 1);
        token_raw[i] = rows_in[token * kRowQuads + block * 4 + unit % 4];
    }
    const uint n_blocks = push.w.n_rows * kBlocks;
    const uint base = push.w.base_quads;
    [[unroll]] for (uint i = 0; i < kRowLoads; ++i) {
        const uint unit = i * kThreads + gl_LocalInvocationIndex;
        const uint at = min(first_row + unit / 2, push.w.n_rows - 1) * kBlocks + block;
        const uint half_block = unit % 2;
        if (is_quantized(kType)) {
            const RawBlock raw = load_raw(kType, base, n_blocks, at);
            if (kType == TYPE_Q8_0) {
                row_raw[i] = w_quad(base + half_block * n_blocks + at);
            } else {
                const Codes codes = codes_of(kType, raw);
                row_raw[i] = half_block == 0 ? codes.low : codes.high;
            }
            if (kType == TYPE_Q4_0) {
                row_scale[i] = vec2(unpackHalf2x16(raw.scale).x, 0.0);
            } else {
                const vec4 scales = scales_of(kType, raw);
                row_scale[i] = half_block == 0 ? scales.xz : scales.yw;
            }
        } else {
            [[unroll]] for (uint q = 0; q < kRawQuads; ++q)
                row_raw[i * kRawQuads + q] = w_quad(base + (half_block * kRawQuads + q) * n_blocks + at);
        }
    }
}

// Codes 0-15 in the bytes of a word as two words of halves: or-ed into 1024.0 a nibble is 1024 + code, exactly.
uvec2 nibbles_scaled(uint word, f16vec2 scale) {
    const uint low = (word & 0xffu) | (word << 8 & 0x00ff0000u) | 0x64006400u;
    const uint high = (word >> 16 & 0xffu) | (word >> 8 & 0x00ff0000u) | 0x64006400u;
    const f16vec2 zero = f16vec2(1032.0);
    return uvec2(packFloat2x16((unpackFloat2x16(low) - zero) * scale),
                 packFloat2x16((unpackFloat2x16(high) - zero) * scale));
}

// An unsigned byte as a float by way of 2^23 + code, which is cheaper than a conversion.
float code_float(uint word, uint j) {
    return uintBitsToFloat(bitfieldExtract(word, int(8 * j), 8) | 0x4b000000u) - 8388608.0;
}

uvec2 codes_scaled(uint word, vec2 scale) {
    const vec4 w = vec4(code_float(word, 0), code_float(word, 1), code_float(word, 2), code_float(word, 3)) * scale.x + scale.y;
    return uvec2(packHalf2x16(w.xy), packHalf2x16(w.zw));
}

uvec2 floats_packed(vec4 w) {
    const vec4 c = clamp(w, -65504.0, 65504.0);
    return uvec2(packHalf2x16(c.xy), packHalf2x16(c.zw));
}

void store(uint stage) {
    [[unroll]] for (uint i = 0; i < kTokenLoads; ++i) {
        const uint unit = i * kThreads + gl_LocalInvocationIndex;
        if (unit < kTileTokens * 4) tile[stage * kStageQuads + unit / 4 * kStride + unit % 4] = token_raw[i];
    }
    [[unroll]] for (uint i = 0; i < kRowLoads; ++i) {
        const uint unit = i * kThreads + gl_LocalInvocationIndex;
        uvec4 a, b;  // 16 halves
        if (kType == TYPE_F16) {
            a = row_raw[i * kRawQuads];
            b = row_raw[i * kRawQuads + kRawQuads - 1];
        } else if (kType == TYPE_BF16) {
            const uvec4 p = row_raw[i * kRawQuads], q = row_raw[i * kRawQuads + kRawQuads - 1];
            a = uvec4(floats_packed(uintBitsToFloat(uvec4(p.x << 16, p.x & 0xffff0000u, p.y << 16, p.y & 0xffff0000u))),
                      floats_packed(uintBitsToFloat(uvec4(p.z << 16, p.z & 0xffff0000u, p.w << 16, p.w & 0xffff0000u))));
            b = uvec4(floats_packed(uintBitsToFloat(uvec4(q.x << 16, q.x & 0xffff0000u, q.y << 16, q.y & 0xffff0000u))),
                      floats_packed(uintBitsToFloat(uvec4(q.z << 16, q.z & 0xffff0000u, q.w << 16, q.w & 0xffff0000u))));
        } else if (kType == TYPE_F32) {
            const uint at = i * kRawQuads;
            a = uvec4(floats_packed(uintBitsToFloat(row_raw[at])), floats_packed(uintBitsToFloat(row_raw[at + kRawQuads / 3])));
            b = uvec4(floats_packed(uintBitsToFloat(row_raw[at + kRawQuads / 2])),
                      floats_packed(uintBitsToFloat(row_raw[at + kRawQuads - 1])));
        } else if (kType == TYPE_Q4_0) {
            const f16vec2 scale = f16vec2(row_scale[i].x);
            a = uvec4(nibbles_scaled(row_raw[i].x, scale), nibbles_scaled(row_raw[i].y, scale));
            b = uvec4(nibbles_scaled(row_raw[i].z, scale), nibbles_scaled(row_raw[i].w, scale));
        } else {
            vec2 scale = row_scale[i];
            uvec4 codes = row_raw[i];
            if (kType == TYPE_Q8_0) {  // signed: code + 128 is unsigned
                codes ^= 0x80808080u;
                scale.y = -128.0 * scale.x;
            }
            a = uvec4(codes_scaled(codes.x, scale), codes_scaled(codes.y, scale));
            b = uvec4(codes_scaled(codes.z, scale), codes_scaled(codes.w, scale));
        }
        const uint at = stage * kStageQuads + (kTileTokens + unit / 2) * kStride + unit % 2 * 2;
        if (unit < kTileRows * 2) {
            tile[at] = a;
            tile[at + 1] = b;
        }
    }
}

void main() {
    const uint first_token = gl_WorkGroupID.x * kTileTokens;  // neighbouring groups share weights
    const uint first_row = gl_WorkGroupID.y * kTileRows;
    const uint part_token = gl_SubgroupID % kTokenGroups * kTokenParts * kM;
    const uint part_row = gl_SubgroupID / kTokenGroups * kRowParts * kN;

    coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator> sums[kTokenParts * kRowParts];
    [[unroll]] for (uint i = 0; i < kTokenParts * kRowParts; ++i)
        sums[i] = coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator>(0.0);

    fetch(first_token, first_row, 0);
    for (uint block = 0; block < kBlocks; ++block) {
        const uint stage = block % kStages;
        store(stage);
        barrier();
        fetch(first_token, first_row, min(block + 1, kBlocks - 1));
        [[unroll]] for (uint k = 0; k < 32 / kK; ++k) {
            coopmat<float16_t, gl_ScopeSubgroup, kM, kK, gl_MatrixUseA> a[kTokenParts];
            [[unroll]] for (uint t = 0; t < kTokenParts; ++t)
                coopMatLoad(a[t], tile, stage * kStageQuads + (part_token + t * kM) * kStride + k * kK / 8, kStride,
                            gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint r = 0; r < kRowParts; ++r) {
                coopmat<float16_t, gl_ScopeSubgroup, kK, kN, gl_MatrixUseB> b;
                coopMatLoad(b, tile, stage * kStageQuads + (kTileTokens + part_row + r * kN) * kStride + k * kK / 8, kStride,
                            gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint t = 0; t < kTokenParts; ++t)
                    sums[t * kRowParts + r] = coopMatMulAdd(a[t], b, sums[t * kRowParts + r]);
            }
        }
        if (kStages == 1) barrier();
    }

    // A whole tile at an aligned place goes straight to the output, others by way of shared memory. All subgroups of a
    // group take the same way: Mesa's software driver makes a subgroup's barrier one of the group.
    barrier();
    const bool straight = push.out_stride % 4 == 0 && push.first_row % 4 == 0 && first_token + kTileTokens <= push.n_tokens &&
                          first_row + kTileRows <= push.w.n_rows;
    const uint scratch = gl_SubgroupID * (kM * kN / 4);
    [[unroll]] for (uint t = 0; t < kTokenParts; ++t) {
        [[unroll]] for (uint r = 0; r < kRowParts; ++r) {
            const uint token = first_token + part_token + t * kM;
            const uint row = first_row + part_row + r * kN;
            const uint at = token * push.out_stride + push.first_row + row;
            if (straight) {
                if (kAdd != 0) {
                    coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator> before;
                    coopMatLoad(before, rows_out, at, push.out_stride, gl_CooperativeMatrixLayoutRowMajor);
                    sums[t * kRowParts + r] += before;
                }
                coopMatStore(sums[t * kRowParts + r], rows_out, at, push.out_stride, gl_CooperativeMatrixLayoutRowMajor);
            } else {
                coopMatStore(sums[t * kRowParts + r], tile, scratch, kN / 4, gl_CooperativeMatrixLayoutRowMajor);
                subgroupMemoryBarrierShared();
                subgroupBarrier();
                for (uint i = gl_SubgroupInvocationID; i < kM * kN; i += kSubgroupSize) {
                    const uint x = i / kN, y = i % kN;
                    const float value = uintBitsToFloat(tile[scratch + i / 4][i % 4]);
                    if (token + x < push.n_tokens && row + y < push.w.n_rows) {
                        if (kAdd != 0) rows_out[at + x * push.out_stride + y] += value;
                        else rows_out[at + x * push.out_stride + y] = value;
                    }
                }
                subgroupBarrier();
            }
        }
    }
}
