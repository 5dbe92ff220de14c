// SPDX-License-Identifier: Apache-2.0
// Storage type of keys and values: KV_F16 or f32. Conversions alone need no f16 arithmetic.
#ifndef WINNOW_KV_STORE_GLSL
#define WINNOW_KV_STORE_GLSL

#ifdef KV_F16
#define KV_T uint16_t
#define KV_QUADS 1
uint16_t to_kv(float x) { return uint16_t(packHalf2x16(vec2(x, 0.0))); }
// A macro: 16-bit types may be loaded and converted here, but not passed to functions.
#define from_kv(value) unpackHalf2x16(uint(value)).x
// What a reader of the cache will see of x. NVIDIA's compiler takes unpack(pack(x)) for x, so the half's bits become a float by hand.
float round_kv(float x) {
    const uint h = packHalf2x16(vec2(x, 0.0));
    const float y = uintBitsToFloat((h & 0x7fffu) << 13) * uintBitsToFloat(0x77800000u);  // 2^112: the exponents' biases
    return (h & 0x8000u) != 0 ? -y : y;
}
#else
#define KV_T float
#define KV_QUADS 2
float to_kv(float x) { return x; }
#define from_kv(value) (value)
float round_kv(float x) { return x; }
#endif

#endif
