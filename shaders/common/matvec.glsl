// SPDX-License-Identifier: Apache-2.0
// The inner product of a few weight rows with the quantised activation vector: one subgroup per kRowsPerPass rows, one
// lane per block of 32 columns, so that neighbouring lanes read neighbouring 16-byte words. Results go to
// row_values[] in shared memory, where the including shader's epilogue finds them.
// The includer defines kRowsPerPass and kBlocksInFlight (specialisation constants), MATVEC_MAX_ROWS, and includes weights and activations.
#ifndef WINNOW_MATVEC_GLSL
#define WINNOW_MATVEC_GLSL
#include "shaders/common/dot.glsl"

shared float row_values[MATVEC_MAX_ROWS];

float dot_block(uint type, uint base, uint n_blocks, uint i, ActBlock a) {
    if (!is_quantized(type)) {
        float sum = 0.0;
        for (uint k = 0; k < 8; ++k) sum += dot(load_floats(type, base, n_blocks, i, k), act_values(a, k));
        return sum;
    }
    const Codes c = load_codes(type, base, n_blocks, i);
    const vec4 s = load_scales(type, base, n_blocks, i);
    const int high_a = dot16(c.low, a.high_a);
    const int high_b = dot16(c.high, a.high_b);
    const int low_a = dot16(c.low, a.low_a);
    const int low_b = dot16(c.high, a.low_b);
    if (has_half_scales(type)) {
        return a.meta.x * (s.x * float(128 * high_a + low_a) + s.y * float(128 * high_b + low_b)) +
               s.z * a.meta.y + s.w * a.meta.z;
    }
    return a.meta.x * s.x * float(128 * (high_a + high_b) + low_a + low_b) + s.z * (a.meta.y + a.meta.z);
}

// Stored row of the matrix for local row r; the includer defines it.
uint stored_row(uint r);

// Fills row_values[at .. at + n_rows) with W[stored_row(r)] . a for r in [0, n_rows). Returns the sum of squares that the
// producer of the vector left in its blocks (the RMS norm's statistic), the same value in every invocation.
// `type` must be a constant after specialisation. No barrier at the end.
float matvec_rows(uint type, MatrixRef m, uint nb, uint n_rows, uint at) {
    const uint n_blocks = m.n_rows * nb;
    float squares = 0.0;
    for (uint r0 = gl_SubgroupID * kRowsPerPass; r0 < n_rows; r0 += gl_NumSubgroups * kRowsPerPass) {
        float sums[kRowsPerPass];
        uint first[kRowsPerPass];
        [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k) {
            sums[k] = 0.0;
            first[k] = stored_row(min(r0 + k, n_rows - 1)) * nb;
        }
        squares = 0.0;
        uint b = gl_SubgroupInvocationID;
        for (; b + (kBlocksInFlight - 1) * gl_SubgroupSize < nb; b += kBlocksInFlight * gl_SubgroupSize) {
            [[unroll]] for (uint j = 0; j < kBlocksInFlight; ++j) {
                const ActBlock a = load_act(nb, b + j * gl_SubgroupSize);
                squares += a.meta.w;
                [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k)
                    sums[k] += dot_block(type, m.base_quads, n_blocks, first[k] + b + j * gl_SubgroupSize, a);
            }
        }
        for (; b < nb; b += gl_SubgroupSize) {
            const ActBlock a = load_act(nb, b);
            squares += a.meta.w;
            [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k)
                sums[k] += dot_block(type, m.base_quads, n_blocks, first[k] + b, a);
        }
        [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k) {
            const float total = subgroupAdd(sums[k]);
            if (subgroupElect() && r0 + k < n_rows) row_values[at + r0 + k] = total;
        }
    }
    // A subgroup without a row of its own needs the statistic too.
    if (gl_SubgroupID * kRowsPerPass >= n_rows)
        for (uint b = gl_SubgroupInvocationID; b < nb; b += gl_SubgroupSize)
            squares += uintBitsToFloat(act_in[4 * nb + b].w);
    return subgroupAdd(squares);
}

#endif
