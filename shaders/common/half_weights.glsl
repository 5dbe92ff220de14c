// SPDX-License-Identifier: Apache-2.0
// Probabilities for matrix units, which take halves. In powers of two: one is kept as 2^(kBias + score - reference), at
// most 2^(kBias + kSlack), which f16 holds; sums are rescaled only when a maximum outgrew its reference by kSlack. The
// bias keeps small ones above f16's subnormals, and cancels in the quotient.
#ifndef WINNOW_HALF_WEIGHTS_GLSL
#define WINNOW_HALF_WEIGHTS_GLSL

const float kLog2E = 1.44269504;
const float kBias = 8.0;
const float kSlack = 6.0;

#endif
