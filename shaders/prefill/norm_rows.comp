#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: RMS norm of each row. Modes: 0 writes norm(x) * weight as f16 rows for the matmul that follows; 1 adds
// norm(y) * weight to x (the post norm of a branch). One subgroup handles one row.
// Bindings: 0 input f32 [n_tokens, n]; 1 weight f32 [n]; 2 f16 rows [n_tokens, n] (mode 0); 3 x f32 [n_tokens, n] (mode
// 1)
// Needs: storage16, subgroup arithmetic.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kQuads = 144;  // n / 4
layout(constant_id = 2) const uint kMode = 0;

#include "shaders/common/interface.h"

layout(push_constant, scalar) uniform Push { NormRowsPush push; };
layout(set = 0, binding = 0, scalar) restrict readonly buffer Input { vec4 rows_in[]; };
layout(set = 0, binding = 1, scalar) restrict readonly buffer Weight { vec4 weight[]; };
layout(set = 0, binding = 2, scalar) restrict writeonly buffer Halves { uvec2 halves[]; };
layout(set = 0, binding = 3, scalar) restrict buffer Residual { vec4 x[]; };

void main() {
    const uint row = gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID;
    if (row >= push.n_tokens) return;
    float squares = 0.0;
    for (uint i = gl_SubgroupInvocationID; i < kQuads; i += gl_SubgroupSize) {
        const vec4 v = rows_in[row * kQuads + i];
        squares += dot(v, v);
    }
    const float inverse_rms = inversesqrt(subgroupAdd(squares) / float(kQuads * 4) + push.eps);
    for (uint i = gl_SubgroupInvocationID; i < kQuads; i += gl_SubgroupSize) {
        const vec4 v = rows_in[row * kQuads + i] * inverse_rms * weight[i];
        if (kMode == 0) halves[row * kQuads + i] = uvec2(packHalf2x16(v.xy), packHalf2x16(v.zw));
        else x[row * kQuads + i] += v;
    }
}
