// SPDX-License-Identifier: Apache-2.0
// Sums of the keys and values that left a head's window. A sum is a whole number of 2^-24 in 64 bits, (low, high) in
// two's complement: halves and their products with codes are such numbers. So sums are exact, their order does not
// matter, and what was added can be taken away again. EvictedSums: [n_layers * n_kv_heads][key, value][kHeadDim].
// Include after kv.glsl.
#ifndef WINNOW_EVICTED_GLSL
#define WINNOW_EVICTED_GLSL

const float kSumUnit = 1.0 / 16777216.0;  // 2^-24
const float kMostSummed = 65536.0;        // what a half cannot hold either; f32 keys and values round to the unit

// Tokens from the first after the sinks on that a query at `position` no longer sees.
uint n_evicted(HeadTable h, uint position) {
    const uint beyond = h.window == 0 || position + 1 <= h.window ? 0 : position + 1 - h.window;
    return beyond - min(h.sink_tokens, beyond);
}

uvec2 to_sum(float x) {
    const float magnitude = min(abs(x), kMostSummed);
    const uint whole = uint(magnitude);
    const uint part = uint(roundEven((magnitude - float(whole)) / kSumUnit));
    const uvec2 sum = uvec2(whole << 24 | part, whole >> 8);
    return x < 0.0 ? uvec2(~sum.x + 1, ~sum.y + (sum.x == 0 ? 1 : 0)) : sum;
}

float from_sum(uvec2 sum) {
    const bool negative = int(sum.y) < 0;
    if (negative) sum = uvec2(~sum.x + 1, ~sum.y + (sum.x == 0 ? 1 : 0));
    const float magnitude = float(sum.y) * 256.0 + float(sum.x) * kSumUnit;
    return negative ? -magnitude : magnitude;
}

uvec2 add_sums(uvec2 a, uvec2 b) {
    uint carry;
    const uint low = uaddCarry(a.x, b.x, carry);
    return uvec2(low, a.y + b.y + carry);
}

#endif
