#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: to[i] = from[i]: the bandwidth that the benches measure themselves against (a driver's copy command may be
// slower).
// One workgroup handles: every gl_NumWorkGroups-th run of gl_WorkGroupSize.x * 4 words of 16 bytes.
// Bindings: 0 from; 1 to
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;

layout(push_constant, scalar) uniform Push { uint n_quads; } push;
layout(set = 0, binding = 0, scalar) restrict readonly buffer From { uvec4 from_quads[]; };
layout(set = 0, binding = 1, scalar) restrict writeonly buffer To { uvec4 to_quads[]; };

void main() {
    const uint run = gl_WorkGroupSize.x * 4;
    for (uint base = gl_WorkGroupID.x * run; base < push.n_quads; base += gl_NumWorkGroups.x * run) {
        uvec4 held[4];
        [[unroll]] for (uint k = 0; k < 4; ++k) {
            const uint i = base + k * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
            held[k] = i < push.n_quads ? from_quads[i] : uvec4(0);
        }
        [[unroll]] for (uint k = 0; k < 4; ++k) {
            const uint i = base + k * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
            if (i < push.n_quads) to_quads[i] = held[k];
        }
    }
}
