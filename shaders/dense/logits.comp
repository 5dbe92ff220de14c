#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: logits W a over the vocabulary, with the output norm's scale, and the largest of each group's rows
// (what the sampler starts from; kNotFinite where one is NaN or infinite).
// One workgroup handles: kRowsPerGroup rows.
// Bindings: 0 weights; 1 activations [n_embd]; 2 state; 3 logits f32 [n_vocab]; 4 maxima f32 [groups]
// Needs: storage16, subgroup arithmetic, integer dot product.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kRowsPerGroup = 32;
layout(constant_id = 2) const uint kRowsPerPass = 1;
layout(constant_id = 3) const uint kBlocks = 18;  // n_embd / 32
layout(constant_id = 4) const uint kType = 8;
layout(constant_id = 5) const uint kBlocksInFlight = 1;
layout(constant_id = 6) const bool kShareAct = false;

#define W_BINDING 0
#define ACT_IN_BINDING 1
#define STATE_BINDING 2
#define MATVEC_MAX_ROWS kRowsPerGroup
#define MATVEC_MAX_BLOCKS kBlocks
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"
#include "shaders/common/activations.glsl"
#include "shaders/common/step_state.glsl"
#include "shaders/common/matvec.glsl"
#include "shaders/common/sampling.glsl"

layout(push_constant, scalar) uniform Push { MatvecPush push; };
layout(set = 0, binding = 3, scalar) restrict writeonly buffer Logits { float logits[]; };
layout(set = 0, binding = 4, scalar) restrict writeonly buffer Maxima { float maxima[]; };

MatvecRow matvec_row(uint r) { return matvec_row_of(push.w, kBlocks, gl_WorkGroupID.x * kRowsPerGroup + r); }

void main() {
    const uint n_rows = min(kRowsPerGroup, push.w.n_rows - gl_WorkGroupID.x * kRowsPerGroup);
    matvec_begin(kType, kBlocks, 0, n_rows);
    if (state.stopped != 0) return;
    matvec_share_act(kBlocks);
    const float squares = matvec_rows(kType, kBlocks, 0, n_rows);
    const float inverse_rms = inversesqrt(squares / float(kBlocks * 32) + push.eps);
    barrier();
    for (uint r = gl_LocalInvocationIndex; r < n_rows; r += gl_WorkGroupSize.x)
        logits[push.first_row + gl_WorkGroupID.x * kRowsPerGroup + r] = row_values[r] * inverse_rms;
    if (gl_SubgroupID == 0) {
        float largest = -3.0e38;
        for (uint r = gl_SubgroupInvocationID; r < n_rows; r += gl_SubgroupSize)
            largest = max(largest, finite_or_mark(row_values[r] * inverse_rms));
        largest = subgroupMax(largest);
        if (subgroupElect()) maxima[push.first_row / kRowsPerGroup + gl_WorkGroupID.x] = largest;
    }
}
