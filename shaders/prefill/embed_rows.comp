#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: embedding rows of a chunk. One invocation handles four values of one token.
// Tokens outside this row range of the table are left to another dispatch.
// Bindings: 0 table (weight planes); 1 token ids u32 [n_tokens]; 2 x f32 [n_tokens, n_embd]
// Needs: storage16, subgroup arithmetic.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kBlocks = 18;  // n_embd / 32
layout(constant_id = 2) const uint kType = 8;

#define W_BINDING 0
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"

layout(push_constant, scalar) uniform Push { EmbedRowsPush push; };
layout(set = 0, binding = 1, scalar) restrict readonly buffer Tokens { uint tokens[]; };
layout(set = 0, binding = 2, scalar) restrict writeonly buffer Rows { vec4 x[]; };

void main() {
    const uint item = gl_GlobalInvocationID.x;
    const uint token = gl_GlobalInvocationID.y;
    if (item >= kBlocks * 8 || token >= push.n_tokens) return;
    const uint row = tokens[token] - push.first_row;
    if (row >= push.table.n_rows) return;
    x[token * kBlocks * 8 + item] =
        push.scale * load_values(kType, push.table.base_quads, push.table.n_rows * kBlocks, row * kBlocks + item / 8, item % 8);
}
