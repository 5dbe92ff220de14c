#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: a logit that the top_k-th largest cannot lie below, from the maxima that the logits stage left: the K-th largest
// maximum is no larger than the K-th largest logit. Tokens under the repetition penalty are allowed for by a larger K.
// So the sampler's scan can drop nearly the whole vocabulary before it compacts.
// One workgroup does it all (radix select, 8 bits a round).
// Bindings: 0 state; 1 maxima f32 [n_maxima]; 2 threshold f32 [1]
#extension GL_EXT_scalar_block_layout : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;

#define STATE_BINDING 0
#include "shaders/common/interface.h"
#include "shaders/common/step_state.glsl"
#include "shaders/common/sampling.glsl"

layout(push_constant, scalar) uniform Push { SamplePush push; };
layout(set = 0, binding = 1, scalar) restrict readonly buffer Maxima { float maxima[]; };
layout(set = 0, binding = 2, scalar) restrict writeonly buffer Threshold { float threshold[]; };

shared uint histogram[256];
shared uint chosen_prefix;
shared uint remaining;

void main() {
    if (state.stopped != 0) return;
    const uint top_k = state.temperature > 0.0 ? state.top_k : 1;
    const uint penalised = state.repeat_penalty == 1.0 ? 0 : min(state.repeat_last_n, state.n_recent);
    const uint wanted = top_k + penalised;
    // A penalty below 1 raises logits, which only adds candidates above the threshold.
    const bool everything = top_k == 0 || wanted > push.n_maxima;
    if (everything) {
        if (gl_LocalInvocationIndex == 0) threshold[0] = -3.0e38;
        return;
    }
    if (gl_LocalInvocationIndex == 0) {
        chosen_prefix = 0;
        remaining = wanted;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (uint i = gl_LocalInvocationIndex; i < 256; i += gl_WorkGroupSize.x) histogram[i] = 0;
        barrier();
        const uint prefix = chosen_prefix;
        for (uint i = gl_LocalInvocationIndex; i < push.n_maxima; i += gl_WorkGroupSize.x) {
            const uint key = float_key(maxima[i]);
            if (shift == 24 || (key >> (shift + 8)) == (prefix >> (shift + 8)))
                atomicAdd(histogram[(key >> shift) & 255], 1);
        }
        barrier();
        // Suffix sums: histogram[d] = keys of this prefix whose digit is at least d.
        for (uint step = 1; step < 256; step <<= 1) {
            uint sums[8];
            uint n = 0;
            for (uint i = gl_LocalInvocationIndex; i < 256; i += gl_WorkGroupSize.x)
                sums[n++] = i + step < 256 ? histogram[i + step] : 0;
            barrier();
            n = 0;
            for (uint i = gl_LocalInvocationIndex; i < 256; i += gl_WorkGroupSize.x) histogram[i] += sums[n++];
            barrier();
        }
        const uint want = remaining;
        barrier();
        for (uint i = gl_LocalInvocationIndex; i < 256; i += gl_WorkGroupSize.x) {
            const uint above = i < 255 ? histogram[i + 1] : 0;
            if (histogram[i] >= want && above < want) {
                chosen_prefix = prefix | (i << shift);
                remaining = want - above;
            }
        }
        barrier();
    }
    if (gl_LocalInvocationIndex == 0) threshold[0] = key_float(chosen_prefix);
}
