#version 460
// SPDX-License-Identifier: Apache-2.0
// An array sized by a specialisation constant: older glslang writes invalid -gVS information for it.
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 64;
layout(set = 0, binding = 0) buffer Data { uint data[]; };

shared uint values[kGroupSize];

void main() {
    values[gl_LocalInvocationIndex] = gl_WorkGroupID.x;
    barrier();
    data[gl_GlobalInvocationID.x] = values[kGroupSize - 1 - gl_LocalInvocationIndex];
}
