#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: the embedding row of the step's token as the residual stream x, and the first layer's quantised input.
// One workgroup handles: kBlocksPerGroup blocks of 32. A token outside this row range of the table is left to another
// dispatch.
// Bindings: 0 table (weight planes); 1 state; 2 x f32 [n_embd]; 3 first norm weight f32 [n_embd]; 4 quantised output
// [n_embd]
// Needs: storage16, subgroup shuffle.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kBlocksPerGroup = 4;
layout(constant_id = 2) const uint kBlocks = 18;  // n_embd / 32
layout(constant_id = 3) const uint kType = 8;

#define W_BINDING 0
#define STATE_BINDING 1
#define ACT_OUT_BINDING 4
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"
#include "shaders/common/activations.glsl"
#include "shaders/common/step_state.glsl"

layout(push_constant, scalar) uniform Push { EmbedPush push; };
layout(set = 0, binding = 2, scalar) restrict writeonly buffer Residual { vec4 x[]; };
layout(set = 0, binding = 3, scalar) restrict readonly buffer Norm { float norm[]; };

shared vec4 values[kBlocksPerGroup * 8];
uint first_block;

float act_value(uint e) { return values[e / 4][e % 4] * norm[first_block * 32 + e]; }
float act_square(uint e) { return values[e / 4][e % 4] * values[e / 4][e % 4]; }

void main() {
    if (state.stopped != 0) return;
    const uint row = state.token - push.first_row;
    if (row >= push.table.n_rows) return;  // also when the token is before the range: unsigned
    first_block = gl_WorkGroupID.x * kBlocksPerGroup;
    const uint n_blocks = min(kBlocksPerGroup, kBlocks - first_block);
    for (uint i = gl_LocalInvocationIndex; i < n_blocks * 8; i += gl_WorkGroupSize.x) {
        const uint block = first_block + i / 8;
        const vec4 v = push.scale * load_values(kType, push.table.base_quads, push.table.n_rows * kBlocks,
                                                row * kBlocks + block, i % 8);
        values[i] = v;
        x[block * 8 + i % 8] = v;
    }
    barrier();
    store_act(kBlocks, first_block, n_blocks);
}
