// SPDX-License-Identifier: Apache-2.0
// How a row of a quantised cache is written (shaders/common/kv_store.glsl). Include after kv_store.glsl with kv_row
// declared.
#ifndef WINNOW_KV_QUANTIZE_GLSL
#define WINNOW_KV_QUANTIZE_GLSL
#if KV_QUANTIZED

// Scale and codes of a whole row, from kv_row[at ..] in shared memory, by `n_workers` invocations of which this is
// `worker`. Leaves in kv_row what a reader of the cache will see. The includer declares kv_row and orders the writes
// before and after. Each worker takes whole runs of 32 dimensions: KV_STORE_ROW(pool, row, at, worker, n_workers).
uint kv_code(float x, float inverse) {
    if (KV_TYPE == WINNOW_KV_Q8_0) return uint(int(clamp(roundEven(x * inverse), -127.0, 127.0))) & 0xffu;
    return uint(clamp(floor(x * inverse + 8.5), 0.0, 15.0));
}
float kv_scale(uint at, uint n) {
    float largest = 0.0;  // with its sign: q4_0 has one more code on its side
    for (uint i = 0; i < n; ++i)
        if (abs(kv_row[at + i]) > abs(largest)) largest = kv_row[at + i];
    return round_half(KV_TYPE == WINNOW_KV_Q8_0 ? abs(largest) / 127.0 : largest / -8.0);
}
float kv_decoded(uint code, float scale) {
    if (KV_TYPE == WINNOW_KV_Q8_0) return scale * float(bitfieldExtract(int(code), 0, 8));
    return scale * (float(code) - 8.0);
}
#define KV_STORE_ROW(name, row, at, worker, n_workers)                                                       \
    for (uint kv_s = worker; kv_s < kScales; kv_s += n_workers) {                                            \
        const uint kv_n = min(32u, kHeadDim - 32 * kv_s);                                                    \
        const float kv_d = kv_scale((at) + 32 * kv_s, kv_n);                                                 \
        const float kv_inverse = kv_d != 0.0 ? 1.0 / kv_d : 0.0;                                             \
        name##_halves[scale_half(row, 4 * kv_s)] = uint16_t(packHalf2x16(vec2(kv_d, 0.0)));                  \
        for (uint kv_u = 0; kv_u < kv_n / 8; ++kv_u) {                                                       \
            uvec2 kv_w = uvec2(0);                                                                           \
            for (uint kv_e = 0; kv_e < 8; ++kv_e) {                                                          \
                const uint kv_i = (at) + 32 * kv_s + 8 * kv_u + kv_e;                                        \
                const uint kv_c = kv_code(kv_row[kv_i], kv_inverse);                                         \
                kv_row[kv_i] = kv_decoded(kv_c, kv_d);                                                       \
                if (KV_TYPE == WINNOW_KV_Q8_0) kv_w[kv_e / 4] |= kv_c << (8 * (kv_e % 4));                   \
                else kv_w.x |= kv_c << (8 * (kv_e % 4) + kv_e / 4 * 4);                                      \
            }                                                                                                \
            if (KV_TYPE == WINNOW_KV_Q8_0) name##_pairs[code_unit(row, 4 * kv_s + kv_u)] = kv_w;             \
            else name##_words[code_unit(row, 4 * kv_s + kv_u)] = kv_w.x;                                     \
        }                                                                                                    \
    }

#endif
#endif
