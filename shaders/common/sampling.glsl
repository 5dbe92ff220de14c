// SPDX-License-Identifier: Apache-2.0
// Pieces of the sampler: order-preserving keys, penalties, the counter-based generator.
#ifndef WINNOW_SAMPLING_GLSL
#define WINNOW_SAMPLING_GLSL

// Unsigned keys in the order of the floats.
uint float_key(float x) {
    const uint bits = floatBitsToUint(x);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// Stands for a logit that is NaN or plus infinity: finite, so that every device's max() finds it, and above any sound
// logit. The bits decide, as a driver may assume that floats are finite. Minus infinity only rules a token out.
const float kNotFinite = 3.3e38;
float finite_or_mark(float x) {
    const uint bits = floatBitsToUint(x);
    return (bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u ? kNotFinite : x;
}

// Philox-2x32-10 (Salmon et al., SC 2011): draw `counter` of the stream `seed`; uniform in [0, 1).
float philox_uniform(uvec2 seed, uint counter) {
    uvec2 ctr = uvec2(counter, seed.y);
    uint key = seed.x;
    for (int round = 0; round < 10; ++round) {
        uint high, low;
        umulExtended(0xD256D193u, ctr.x, high, low);
        ctr = uvec2(high ^ key ^ ctr.y, low);
        key += 0x9E3779B9u;
    }
    return float(ctr.x >> 8) * (1.0 / 16777216.0);
}

#endif
