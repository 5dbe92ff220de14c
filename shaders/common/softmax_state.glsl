// SPDX-License-Identifier: Apache-2.0
// States (m, d) of a softmax: the largest score and the sum of exp(score - m). The includer defines kEmpty, the m of
// nothing at all.
#ifndef WINNOW_SOFTMAX_STATE_GLSL
#define WINNOW_SOFTMAX_STATE_GLSL

void merge_state(inout vec2 state_md, vec2 other) {
    const float m = max(state_md.x, other.x);
    state_md = vec2(m, state_md.y * exp(state_md.x - m) + other.y * exp(other.x - m));
}

// Of a softmax whose denominator has the logarithm `lse`.
float share_of(vec2 state_md, float lse) { return min(exp(state_md.x + log(max(state_md.y, 1.0e-30)) - lse), 1.0); }

#endif
