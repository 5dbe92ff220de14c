#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: act(Wg a) * (Wu a) of the gated MLP, quantised for the down projection; the RMS norm's scale is applied
// here.
// One workgroup handles: kRowsPerGroup rows (whole blocks of 32) of both matrices.
// Bindings: 0 weights; 1 activations [n_embd]; 2 state; 3 quantised output [n_ff]
// Needs: storage16, subgroup arithmetic, integer dot product.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kRowsPerGroup = 32;
layout(constant_id = 2) const uint kRowsPerPass = 1;
layout(constant_id = 3) const uint kBlocks = 18;     // n_embd / 32
layout(constant_id = 4) const uint kOutBlocks = 48;  // n_ff / 32
layout(constant_id = 5) const uint kTypeGate = 3;
layout(constant_id = 6) const uint kTypeUp = 3;
layout(constant_id = 7) const uint kActivation = 0;  // 0 SiLU, 1 GELU (tanh form)
layout(constant_id = 8) const uint kBlocksInFlight = 1;
layout(constant_id = 9) const bool kShareAct = false;

#define W_BINDING 0
#define ACT_IN_BINDING 1
#define STATE_BINDING 2
#define ACT_OUT_BINDING 3
#define MATVEC_MAX_ROWS (2 * kRowsPerGroup)
#define MATVEC_MAX_BLOCKS kBlocks
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"
#include "shaders/common/activations.glsl"
#include "shaders/common/step_state.glsl"
#include "shaders/common/matvec.glsl"
#include "shaders/common/gate.glsl"

layout(push_constant, scalar) uniform Push { GateUpPush push; };

uint last_row;  // of the matrices
// Rows of the gate, then those of the other matrix.
MatvecRow matvec_row(uint r) {
    const uint row = min(gl_WorkGroupID.x * kRowsPerGroup + r % kRowsPerGroup, last_row);
    if (r < kRowsPerGroup) return matvec_row_of(push.gate, kBlocks, row);
    return matvec_row_of(push.up, kBlocks, row);
}
float act_value(uint e) { return row_values[e]; }
float act_square(uint e) { return 0.0; }

void main() {
    last_row = push.gate.n_rows - 1;
    const uint n_rows = min(kRowsPerGroup, push.gate.n_rows - gl_WorkGroupID.x * kRowsPerGroup);
    const uint end = kTypeGate == kTypeUp ? 2 * kRowsPerGroup : kRowsPerGroup;
    matvec_begin(kTypeGate, kBlocks, 0, end);
    if (state.stopped != 0) return;
    matvec_share_act(kBlocks);
    const float squares = matvec_rows(kTypeGate, kBlocks, 0, end);
    if (kTypeGate != kTypeUp) {
        matvec_begin(kTypeUp, kBlocks, kRowsPerGroup, 2 * kRowsPerGroup);
        matvec_rows(kTypeUp, kBlocks, kRowsPerGroup, 2 * kRowsPerGroup);
    }
    const float inverse_rms = inversesqrt(squares / float(kBlocks * 32) + push.eps);
    barrier();
    for (uint r = gl_LocalInvocationIndex; r < n_rows; r += gl_WorkGroupSize.x)
        row_values[r] = gate(kActivation, row_values[r] * inverse_rms) * row_values[kRowsPerGroup + r] * inverse_rms;
    barrier();
    store_act(kOutBlocks, (push.first_row + gl_WorkGroupID.x * kRowsPerGroup) / 32, n_rows / 32);
}
