#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: out[i] = base + i * stride * kScale, the smallest thing that shows a dispatch to work.
// One workgroup handles: kGroupSize elements.
// Bindings: 0 values u32 [n]
#extension GL_EXT_scalar_block_layout : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 64;
layout(constant_id = 1) const uint kScale = 1;

layout(push_constant, scalar) uniform Push {
    uint n;
    uint base;
    uint stride;
} push;
layout(set = 0, binding = 0, scalar) restrict writeonly buffer Values { uint values[]; };

void main() {
    const uint i = gl_WorkGroupID.x * kGroupSize + gl_LocalInvocationIndex;
    if (i < push.n) values[i] = push.base + i * push.stride * kScale;
}
