// SPDX-License-Identifier: Apache-2.0
#ifndef WINNOW_GATE_GLSL
#define WINNOW_GATE_GLSL

// Activation of the gated MLP: 0 SiLU, 1 GELU in its tanh form. tanh is written with exp so that large arguments
// saturate.
float gate(uint kind, float x) {
    const float z = kind == 0 ? x : 1.5957691216057308 * (x + 0.044715 * x * x * x);
    return x / (1.0 + exp(-z));
}

#endif
