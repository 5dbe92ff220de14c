#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: x += W a (output projection, down projection) and the next norm's quantised input. With kPostNorm the
// product is RMS-normed before the sum (Gemma 3): the last workgroup to arrive does that for the whole vector.
// One workgroup handles: kRowsPerGroup rows, whole blocks of 32.
// Bindings: 0 weights; 1 activations [n_in]; 2 state; 3 x f32 [n_embd]; 4 next norm weight f32 [n_embd];
//   5 quantised output [n_embd]; 6 post-norm weight f32 [n_embd]; 7 raw product f32 [n_embd]; 8 arrival counters
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
layout(constant_id = 3) const uint kOutBlocks = 18;   // n_embd / 32
layout(constant_id = 4) const uint kType = 3;
layout(constant_id = 5) const uint kPostNorm = 0;
layout(constant_id = 6) const uint kBlocksInFlight = 1;
layout(constant_id = 7) const bool kShareAct = false;
layout(constant_id = 8) const uint kMostBlocks = 1;  // of a row, with kShareAct

#define W_BINDING 0
#define ACT_IN_BINDING 1
#define STATE_BINDING 2
#define ACT_OUT_BINDING 5
#define MATVEC_MAX_ROWS kRowsPerGroup
#define MATVEC_MAX_BLOCKS kMostBlocks
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"
#include "shaders/common/activations.glsl"
#include "shaders/common/step_state.glsl"
#include "shaders/common/matvec.glsl"

layout(push_constant, scalar) uniform Push { MatvecPush push; };
layout(set = 0, binding = 3, scalar) restrict buffer Residual { float x[]; };
layout(set = 0, binding = 4, scalar) restrict readonly buffer NextNorm { float next_norm[]; };
layout(set = 0, binding = 6, scalar) restrict readonly buffer PostNorm { float post_norm[]; };
layout(set = 0, binding = 7, scalar) coherent buffer Raw { float raw_product[]; };
layout(set = 0, binding = 8, scalar) coherent buffer Counters { uint counters[]; };

const uint kOutRows = kOutBlocks * 32;
shared float out_values[kPostNorm != 0 ? kOutRows : kRowsPerGroup];
shared float normed_values[kPostNorm != 0 ? 1 : kRowsPerGroup];
shared uint arrived;

// How long a row is is not compiled in: output and down projection are one pipeline where their weights have one type,
// which leaves the instruction cache 14 KB.
MatvecRow matvec_row(uint r) { return matvec_row_of(push.w, push.n_blocks, gl_WorkGroupID.x * kRowsPerGroup + r); }
// After a post norm the whole vector is here, once: a second copy would not fit the shared memory of every device.
float act_value(uint e) { return kPostNorm != 0 ? out_values[e] * next_norm[e] : normed_values[e]; }
float act_square(uint e) { return out_values[e] * out_values[e]; }

void main() {
    const uint n_rows = min(kRowsPerGroup, push.w.n_rows - gl_WorkGroupID.x * kRowsPerGroup);
    const uint first_out = push.first_row + gl_WorkGroupID.x * kRowsPerGroup;
    matvec_begin(kType, push.n_blocks, 0, n_rows);
    // What the epilogue needs is on its way while the rows are read.
    float residual = 0.0, weight = 0.0;
    if (gl_LocalInvocationIndex < n_rows) {
        residual = x[first_out + gl_LocalInvocationIndex];
        weight = next_norm[first_out + gl_LocalInvocationIndex];
    }
    if (state.stopped != 0) return;
    matvec_share_act(push.n_blocks);
    matvec_rows(kType, push.n_blocks, 0, n_rows);
    barrier();
    if (kPostNorm == 0) {
        for (uint r = gl_LocalInvocationIndex; r < n_rows; r += gl_WorkGroupSize.x) {
            if (r != gl_LocalInvocationIndex) {
                residual = x[first_out + r];
                weight = next_norm[first_out + r];
            }
            const float y = residual + row_values[r];
            x[first_out + r] = y;
            out_values[r] = y;
            normed_values[r] = y * weight;
        }
        barrier();
        store_act(kOutBlocks, first_out / 32, n_rows / 32);
        return;
    }
    for (uint r = gl_LocalInvocationIndex; r < n_rows; r += gl_WorkGroupSize.x)
        raw_product[first_out + r] = row_values[r];
    memoryBarrierBuffer();
    barrier();
    const uint n_groups = kOutRows / kRowsPerGroup + (kOutRows % kRowsPerGroup != 0 ? 1 : 0);
    if (gl_LocalInvocationIndex == 0) {
        arrived = atomicAdd(counters[push.counter], 1);
        if (arrived == n_groups - 1) counters[push.counter] = 0;
    }
    barrier();
    if (arrived != n_groups - 1) return;
    memoryBarrierBuffer();
    float squares = 0.0;
    for (uint r = gl_SubgroupInvocationID; r < kOutRows; r += gl_SubgroupSize)
        squares += raw_product[r] * raw_product[r];
    const float inverse_rms = inversesqrt(subgroupAdd(squares) / float(kOutRows) + push.eps);
    for (uint r = gl_LocalInvocationIndex; r < kOutRows; r += gl_WorkGroupSize.x) {
        const float y = x[r] + raw_product[r] * inverse_rms * post_norm[r];
        x[r] = y;
        out_values[r] = y;
    }
    barrier();
    store_act(kOutBlocks, 0, kOutBlocks);
}
