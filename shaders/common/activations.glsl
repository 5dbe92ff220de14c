// SPDX-License-Identifier: Apache-2.0
// Quantised activation vectors. Each block of 32 values is scale * (128 * high + low) with two int8 planes: 15 bits, so
// that packed integer dot products lose nothing that f16 would keep. nb = n / 32 blocks; planes of 16-byte
// words:
//   [0][nb] high 0-15  [1][nb] high 16-31  [2][nb] low 0-15  [3][nb] low 16-31
//   [4][nb] vec4: scale, sum of the values 0-15, sum of the values 16-31, sum of squares before the norm weight
// The RMS norm is split: the producer multiplies by the norm's weight and stores the squares, the consumer
// multiplies its results by 1 / rms. So no dispatch is spent on a norm.
#ifndef WINNOW_ACTIVATIONS_GLSL
#define WINNOW_ACTIVATIONS_GLSL

#ifdef ACT_IN_BINDING
#include "shaders/common/words.glsl"
READ_WORDS(act_in, ACT_IN_BINDING, restrict readonly)

struct ActBlock {
    uvec4 high_a, high_b, low_a, low_b;
    vec4 meta;
};

ActBlock load_act(uint nb, uint b) {
    ActBlock a;
    a.high_a = act_in_quad(b);
    a.high_b = act_in_quad(nb + b);
    a.low_a = act_in_quad(2 * nb + b);
    a.low_b = act_in_quad(3 * nb + b);
    a.meta = uintBitsToFloat(act_in_quad(4 * nb + b));
    return a;
}

// Values 4*k .. 4*k+3 of a block as floats, before their scale: whole numbers.
vec4 act_codes(ActBlock a, uint k) {
    const uint hi = k < 4 ? a.high_a[k] : a.high_b[k - 4];
    const uint lo = k < 4 ? a.low_a[k] : a.low_b[k - 4];
    const vec4 h = vec4(bitfieldExtract(int(hi), 0, 8), bitfieldExtract(int(hi), 8, 8),
                        bitfieldExtract(int(hi), 16, 8), bitfieldExtract(int(hi), 24, 8));
    const vec4 l = vec4(bitfieldExtract(int(lo), 0, 8), bitfieldExtract(int(lo), 8, 8),
                        bitfieldExtract(int(lo), 16, 8), bitfieldExtract(int(lo), 24, 8));
    return 128.0 * h + l;
}
vec4 act_values(ActBlock a, uint k) { return a.meta.x * act_codes(a, k); }
#endif

#ifdef ACT_OUT_BINDING
layout(set = 0, binding = ACT_OUT_BINDING, scalar) restrict writeonly buffer ActOut { uint act_out[]; };

// Where the values of a group of blocks lie before they are quantised; the including shader fills it:
//   act_value(e)  value e of the group, norm weight applied     act_square(e)  what enters the sum of squares
float act_value(uint e);
float act_square(uint e);

// Writes blocks first_block .. first_block + n_blocks of a vector of nb blocks. Called by the whole workgroup,
// after a barrier that made the values visible. 8 neighbouring invocations share a block.
void store_act(uint nb, uint first_block, uint n_blocks) {
    for (uint item = gl_LocalInvocationIndex; item < n_blocks * 8; item += gl_WorkGroupSize.x) {
        const uint block = item / 8;
        const uint word = item % 8;
        float values[4];
        float largest = 0.0;
        float squares = 0.0;
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            values[j] = act_value(item * 4 + j);
            largest = max(largest, abs(values[j]));
            squares += act_square(item * 4 + j);
        }
        [[unroll]] for (uint d = 1; d < 8; d <<= 1) {
            largest = max(largest, subgroupShuffleXor(largest, d));
            squares += subgroupShuffleXor(squares, d);
        }
        const float inverse = largest > 1.0e-30 ? 16256.0 / largest : 0.0;
        uint hi = 0;
        uint lo = 0;
        int sum = 0;
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            const int q = int(roundEven(values[j] * inverse));
            const int h = (q + 64) >> 7;
            hi |= (uint(h) & 0xffu) << (8 * j);
            lo |= (uint(q - 128 * h) & 0xffu) << (8 * j);
            sum += q;
        }
        [[unroll]] for (uint d = 1; d < 4; d <<= 1) sum += subgroupShuffleXor(sum, d);
        const uint part = word / 4;
        act_out[(part * nb + first_block + block) * 4 + word % 4] = hi;
        act_out[((part + 2) * nb + first_block + block) * 4 + word % 4] = lo;
        const uint at = (4 * nb + first_block + block) * 4;
        const float scale = largest / 16256.0;
        if (word % 4 == 0) act_out[at + 1 + part] = floatBitsToUint(scale * float(sum));
        if (word == 0) act_out[at] = floatBitsToUint(scale);
        if (word == 7) act_out[at + 3] = floatBitsToUint(squares);
    }
}
#endif
#endif
