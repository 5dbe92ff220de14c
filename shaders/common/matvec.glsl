// SPDX-License-Identifier: Apache-2.0
// The inner product of a few weight rows with the quantised activation vector: one subgroup per kRowsPerPass rows, one
// lane per block of 32 columns, so that neighbouring lanes read neighbouring 16-byte words. A lane loads its next
// blocks before it multiplies the present ones, across rows and passes, so that the memory never waits for arithmetic.
// Results go to row_values[] in shared memory, where the including shader's epilogue finds them. The includer defines
// kRowsPerPass, kBlocksInFlight and kShareAct (specialisation constants), MATVEC_MAX_ROWS and MATVEC_MAX_BLOCKS (of the
// vector), and includes weights and activations. With kShareAct the vector is copied to shared memory while the first
// weights are under way: registers that would hold the next blocks of it hold more weights instead.
#ifndef WINNOW_MATVEC_GLSL
#define WINNOW_MATVEC_GLSL
#include "shaders/common/dot.glsl"

shared float row_values[MATVEC_MAX_ROWS];

#ifndef WINNOW_TEXELS
float dot_block(uint type, RawBlock raw, ActBlock a) {
    if (!is_quantized(type)) {
        float sum = 0.0;
        [[unroll]] for (uint k = 0; k < 8; ++k)
            sum += dot(floats_of(type, raw.quads[type == TYPE_F32 ? k : k / 2], k), act_values(a, k));
        return sum;
    }
    const Codes c = codes_of(type, raw);
    const vec4 s = scales_of(type, raw);
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
#endif

// Where the group's local row r lies; the includer defines it.
struct MatvecRow {
    uint base;      // first 16-byte word of its matrix
    uint n_blocks;  // of the whole matrix
    uint first;     // block of the row
};
MatvecRow matvec_row(uint r);
MatvecRow matvec_row_of(MatrixRef m, uint nb, uint row) { return MatvecRow(m.base_quads, m.n_rows * nb, row * nb); }

#ifdef WINNOW_TEXELS
// Software drivers: a lane takes kRowsPerPass rows of its own and the activations are the same in all lanes, since
// whatever crosses lanes there is a loop over them, and floats, since a packed dot product is taken apart into bytes.
// The products of codes are whole numbers that a float holds, so the sums are those of the integers (but for Q8_0,
// whose long sums round as floats do).
float dot_lane(uint type, RawBlock raw, vec4 x[8], vec4 meta) {
    float low = 0.0, high = 0.0;
    if (!is_quantized(type)) {
        [[unroll]] for (uint k = 0; k < 8; ++k) low += dot(floats_of(type, raw.quads[type == TYPE_F32 ? k : k / 2], k), x[k]);
        return meta.x * low;
    }
    const Codes c = codes_of(type, raw);
    const vec4 s = scales_of(type, raw);
    [[unroll]] for (uint k = 0; k < 4; ++k) {
        low += dot(bytes_float(c.low[k]), x[k]);
        high += dot(bytes_float(c.high[k]), x[4 + k]);
    }
    if (has_half_scales(type)) return meta.x * (s.x * low + s.y * high) + s.z * meta.y + s.w * meta.z;
    return meta.x * s.x * (low + high) + s.z * (meta.y + meta.z);
}

void matvec_begin(uint type, uint nb, uint first, uint end) {}
void matvec_share_act(uint nb) {}

float matvec_rows(uint type, uint nb, uint first, uint end) {
    const uint pass = gl_SubgroupSize * kRowsPerPass;
    float squares = 0.0;
    for (uint r0 = first + gl_SubgroupID * pass; r0 < end; r0 += gl_NumSubgroups * pass) {
        MatvecRow row[kRowsPerPass];
        float sums[kRowsPerPass];
        [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k) {
            row[k] = matvec_row(min(r0 + k * gl_SubgroupSize + gl_SubgroupInvocationID, end - 1));
            sums[k] = 0.0;
        }
        squares = 0.0;
        for (uint b = 0; b < nb; ++b) {
            const ActBlock a = load_act(nb, b);
            vec4 x[8];
            [[unroll]] for (uint k = 0; k < 8; ++k) x[k] = act_codes(a, k);
            squares += a.meta.w;
            [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k)
                sums[k] += dot_lane(type, load_raw(type, row[k].base, row[k].n_blocks, row[k].first + b), x, a.meta);
        }
        [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k) {
            const uint r = r0 + k * gl_SubgroupSize + gl_SubgroupInvocationID;
            if (r < end) row_values[r] = sums[k];
        }
    }
    if (first + gl_SubgroupID * pass >= end)  // a subgroup without rows needs the statistic too
        for (uint b = 0; b < nb; ++b) squares += uintBitsToFloat(act_in_quad(4 * nb + b).w);
    return squares;
}

#else
RawBlock matvec_raw[kRowsPerPass * kBlocksInFlight];
ActBlock matvec_act[kBlocksInFlight];
shared uvec4 act_quads[kShareAct ? 5 * MATVEC_MAX_BLOCKS : 1];
ActBlock shared_act(uint nb, uint b) {
    return ActBlock(act_quads[b], act_quads[nb + b], act_quads[2 * nb + b], act_quads[3 * nb + b],
                    uintBitsToFloat(act_quads[4 * nb + b]));
}

void matvec_fetch(uint type, uint nb, uint r0, uint end, uint chunk) {
    [[unroll]] for (uint j = 0; j < kBlocksInFlight; ++j) {
        const uint b = min((chunk * kBlocksInFlight + j) * gl_SubgroupSize + gl_SubgroupInvocationID, nb - 1);
        if (!kShareAct) matvec_act[j] = load_act(nb, b);
        [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k) {
            const MatvecRow row = matvec_row(min(r0 + k, end - 1));
            matvec_raw[j * kRowsPerPass + k] = load_raw(type, row.base, row.n_blocks, row.first + b);
        }
    }
}

// Sends for the first blocks of rows [first, end), so that what the caller reads next does not delay them.
void matvec_begin(uint type, uint nb, uint first, uint end) {
    matvec_fetch(type, nb, first + gl_SubgroupID * kRowsPerPass, end, 0);
}

// After the first matvec_begin(), once, by the whole workgroup.
void matvec_share_act(uint nb) {
    if (!kShareAct) return;
    for (uint i = gl_LocalInvocationIndex; i < 5 * nb; i += gl_WorkGroupSize.x) act_quads[i] = act_in_quad(i);
    barrier();
}

// After matvec_begin with the same arguments: row_values[r] = W[r] . a for r in [first, end). Returns the sum of
// squares that the producer of the vector left in its blocks (the RMS norm's statistic), the same value in every
// invocation. `type` must be a constant after specialisation. No barrier at the end.
float matvec_rows(uint type, uint nb, uint first, uint end) {
    const uint n_chunks = (nb + kBlocksInFlight * gl_SubgroupSize - 1) / (kBlocksInFlight * gl_SubgroupSize);
    const uint start = first + gl_SubgroupID * kRowsPerPass;
    float squares = 0.0;
    float sums[kRowsPerPass];
    [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k) sums[k] = 0.0;
    uint chunk = 0;
    for (uint r0 = start; r0 < end;) {
        RawBlock raw[kRowsPerPass * kBlocksInFlight];
        ActBlock act[kBlocksInFlight];
        [[unroll]] for (uint i = 0; i < kRowsPerPass * kBlocksInFlight; ++i) raw[i] = matvec_raw[i];
        if (!kShareAct) {
            [[unroll]] for (uint j = 0; j < kBlocksInFlight; ++j) act[j] = matvec_act[j];
        }
        const bool last = chunk + 1 == n_chunks;
        const uint next_r0 = last ? r0 + gl_NumSubgroups * kRowsPerPass : r0;
        const uint next_chunk = last ? 0 : chunk + 1;
        if (next_r0 < end) matvec_fetch(type, nb, next_r0, end, next_chunk);
        [[unroll]] for (uint j = 0; j < kBlocksInFlight; ++j) {
            const uint b = (chunk * kBlocksInFlight + j) * gl_SubgroupSize + gl_SubgroupInvocationID;
            if (b >= nb) continue;
            if (kShareAct) act[j] = shared_act(nb, b);
            if (r0 == start) squares += act[j].meta.w;
            [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k) sums[k] += dot_block(type, raw[j * kRowsPerPass + k], act[j]);
        }
        if (last) {
            [[unroll]] for (uint k = 0; k < kRowsPerPass; ++k) {
                const float total = subgroupAdd(sums[k]);
                if (subgroupElect() && r0 + k < end) row_values[r0 + k] = total;
                sums[k] = 0.0;
            }
        }
        r0 = next_r0;
        chunk = next_chunk;
    }
    // A subgroup without a row of its own needs the statistic too.
    if (start >= end)
        for (uint b = gl_SubgroupInvocationID; b < nb; b += gl_SubgroupSize)
            squares += uintBitsToFloat(act_in_quad(4 * nb + b).w);
    return subgroupAdd(squares);
}
#endif

#endif
