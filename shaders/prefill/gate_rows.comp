#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: act(gate) * up of each row as f16. One invocation handles four values.
// Bindings: 0 gate and up f32 [n_tokens, 2, n_ff]; 1 f16 rows [n_tokens, n_ff]
// Needs: storage16, subgroup arithmetic.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kQuads = 384;  // n_ff / 4
layout(constant_id = 2) const uint kActivation = 0;

#include "shaders/common/interface.h"
#include "shaders/common/gate.glsl"

layout(push_constant, scalar) uniform Push { GateRowsPush push; };
layout(set = 0, binding = 0, scalar) restrict readonly buffer GateUp { vec4 gate_up[]; };
layout(set = 0, binding = 1, scalar) restrict writeonly buffer Halves { uvec2 halves[]; };

void main() {
    const uint item = gl_GlobalInvocationID.x;
    const uint token = gl_GlobalInvocationID.y;
    if (item >= kQuads || token >= push.n_tokens) return;
    const vec4 g = gate_up[token * 2 * kQuads + item];
    const vec4 u = gate_up[(token * 2 + 1) * kQuads + item];
    const vec4 v = u * vec4(gate(kActivation, g.x), gate(kActivation, g.y), gate(kActivation, g.z), gate(kActivation, g.w));
    halves[token * kQuads + item] = uvec2(packHalf2x16(v.xy), packHalf2x16(v.zw));
}
