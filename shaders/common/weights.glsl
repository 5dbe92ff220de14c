// SPDX-License-Identifier: Apache-2.0
// Repacked weight planes and how a block of 32 weights is read from them. Values are those of the file; only
// the order of the bytes differs, so that every load is aligned and neighbouring lanes read neighbouring words.
//
// A matrix of n_rows x n_in has nb = n_in / 32 blocks per row; block index i = row * nb + b. Planes, each starting at
// a multiple of 16 bytes:
//   nibble types  quads  [i] uvec4: byte j of word k = weight 4k+j (low nibble), 16+4k+j (high nibble)
//   Q5_x, Q5_K    high   [i] uint: bit k of byte j = fifth bit of weight 4k+j
//   Q6_K          high   [i] uvec2: bits 2k..2k+1 of byte j = top bits of weight 4k+j (x: k 0-3, y: weights 16 + 4k+j)
//   Q8_0          quads  [half][i] uvec4: int8 weights 16*half ..
//   F16, BF16     quads  [part 0-3][i] uvec4: weights 8*part ..        F32: parts 0-7 of 4 weights
//   Q4_0 Q5_0 Q8_0 scale [i] f16 d          Q4_1 Q5_1  [i] f16 d, f16 m
//   Q4_K Q5_K     scale  [i] u8 scale, u8 min;   super [i / 8] f16 d, f16 dmin
//   Q6_K          scale  [i] i8 scale of weights 0-15, i8 of 16-31;    super [i / 8] f16 d
// Include with W_BINDING defined.
#ifndef WINNOW_WEIGHTS_GLSL
#define WINNOW_WEIGHTS_GLSL

#define TYPE_F32 0
#define TYPE_F16 1
#define TYPE_Q4_0 2
#define TYPE_Q4_1 3
#define TYPE_Q5_0 6
#define TYPE_Q5_1 7
#define TYPE_Q8_0 8
#define TYPE_Q4_K 12
#define TYPE_Q5_K 13
#define TYPE_Q6_K 14
#define TYPE_BF16 30

#include "shaders/common/words.glsl"
READ_WORDS(w, W_BINDING, readonly)

// Whether blocks are integer codes (value = scale * code + offset) or plain floats.
bool is_quantized(uint type) { return type != TYPE_F32 && type != TYPE_F16 && type != TYPE_BF16; }
// Whether the two halves of a block have scales of their own.
bool has_half_scales(uint type) { return type == TYPE_Q6_K; }

uint align_quads(uint n_bytes) { return (n_bytes + 15) / 16; }

// Planes of 16-byte words, before the planes that follow them.
uint quad_planes(uint type) {
    if (type == TYPE_Q8_0) return 2;
    if (type == TYPE_F16 || type == TYPE_BF16) return 4;
    return type == TYPE_F32 ? 8 : 1;
}

uint high_bytes(uint type) {
    if (type == TYPE_Q5_0 || type == TYPE_Q5_1 || type == TYPE_Q5_K) return 4;
    if (type == TYPE_Q6_K) return 8;
    return 0;
}

uint scale_bytes(uint type) { return type == TYPE_Q4_1 || type == TYPE_Q5_1 ? 4 : 2; }

// First word of each plane; n_blocks = rows x blocks per row of the stored matrix.
uint high_quad(uint type, uint base, uint n_blocks) { return base + quad_planes(type) * n_blocks; }
uint scale_quad(uint type, uint base, uint n_blocks) {
    return high_quad(type, base, n_blocks) + align_quads(n_blocks * high_bytes(type));
}
uint super_quad(uint type, uint base, uint n_blocks) {
    return scale_quad(type, base, n_blocks) + align_quads(n_blocks * scale_bytes(type));
}

// A block as it lies in memory: what a lane holds while it waits. A type fills only the members that it has.
struct RawBlock {
    uvec4 quads[8];
    uvec2 high;
    uint scale;
    uint super_scale;
};

RawBlock load_raw(uint type, uint base, uint n_blocks, uint i) {
    RawBlock raw;
    [[unroll]] for (uint k = 0; k < 8; ++k)
        if (k < quad_planes(type)) raw.quads[k] = w_quad(base + k * n_blocks + i);
    if (!is_quantized(type)) return raw;
    if (high_bytes(type) == 4) raw.high.x = w_word(4 * high_quad(type, base, n_blocks) + i);
    if (high_bytes(type) == 8) {
        raw.high = w_pair(2 * high_quad(type, base, n_blocks) + i);
    }
    const uint plane = scale_quad(type, base, n_blocks);
    raw.scale = scale_bytes(type) == 4 ? w_word(4 * plane + i) : w_half(8 * plane + i);
    if (type == TYPE_Q4_K || type == TYPE_Q5_K) raw.super_scale = w_word(4 * super_quad(type, base, n_blocks) + i / 8);
    if (type == TYPE_Q6_K) raw.super_scale = w_half(8 * super_quad(type, base, n_blocks) + i / 8);
    return raw;
}

// 32 codes as packed signed bytes: words 0-3 hold weights 0-15, words 4-7 weights 16-31.
struct Codes {
    uvec4 low;
    uvec4 high;
};

Codes codes_of(uint type, RawBlock raw) {
    Codes c;
    if (type == TYPE_Q8_0) {
        c.low = raw.quads[0];
        c.high = raw.quads[1];
        return c;
    }
    c.low = raw.quads[0] & 0x0f0f0f0fu;
    c.high = (raw.quads[0] >> 4) & 0x0f0f0f0fu;
    if (high_bytes(type) == 4) {
        c.low |= ((uvec4(raw.high.x) >> uvec4(0, 1, 2, 3)) & 0x01010101u) << 4;
        c.high |= ((uvec4(raw.high.x) >> uvec4(4, 5, 6, 7)) & 0x01010101u) << 4;
    }
    if (type == TYPE_Q6_K) {
        c.low |= ((uvec4(raw.high.x) >> uvec4(0, 2, 4, 6)) & 0x03030303u) << 4;
        c.high |= ((uvec4(raw.high.y) >> uvec4(0, 2, 4, 6)) & 0x03030303u) << 4;
    }
    return c;
}

// Scale and offset of the two halves of a block: (scale low, scale high, offset low, offset high).
vec4 scales_of(uint type, RawBlock raw) {
    if (type == TYPE_Q4_1 || type == TYPE_Q5_1) return unpackHalf2x16(raw.scale).xxyy;
    if (type == TYPE_Q4_K || type == TYPE_Q5_K) {
        const vec2 d = unpackHalf2x16(raw.super_scale);
        const float scale = d.x * float(raw.scale & 0xffu);
        const float offset = -d.y * float(raw.scale >> 8);
        return vec4(scale, scale, offset, offset);
    }
    if (type == TYPE_Q6_K) {
        const int ss = int(raw.scale);
        const vec2 scale = unpackHalf2x16(raw.super_scale).x * vec2(float(bitfieldExtract(ss, 0, 8)), float(bitfieldExtract(ss, 8, 8)));
        return vec4(scale, -32.0 * scale);
    }
    const float d = unpackHalf2x16(raw.scale).x;
    const float offset = type == TYPE_Q4_0 ? -8.0 * d : (type == TYPE_Q5_0 ? -16.0 * d : 0.0);
    return vec4(d, d, offset, offset);
}

// Four values of an unquantised block, from the word that holds them: weights 4*k .. 4*k+3, k in 0..7.
vec4 floats_of(uint type, uvec4 quad, uint k) {
    if (type == TYPE_F32) return uintBitsToFloat(quad);
    const uvec2 pair = (k & 1) == 0 ? quad.xy : quad.zw;
    if (type == TYPE_F16) return vec4(unpackHalf2x16(pair.x), unpackHalf2x16(pair.y));
    return uintBitsToFloat(uvec4(pair.x << 16, pair.x & 0xffff0000u, pair.y << 16, pair.y & 0xffff0000u));
}

vec4 load_floats(uint type, uint base, uint n_blocks, uint i, uint k) {
    return floats_of(type, w_quad(base + (type == TYPE_F32 ? k : k / 2) * n_blocks + i), k);
}

// Sign-extended byte j of a word as a float.
float byte_float(uint word, int j) { return float(bitfieldExtract(int(word), 8 * j, 8)); }
vec4 bytes_float(uint word) {
    return vec4(byte_float(word, 0), byte_float(word, 1), byte_float(word, 2), byte_float(word, 3));
}

// Dequantised weights 4*k .. 4*k+3 of block i.
vec4 load_values(uint type, uint base, uint n_blocks, uint i, uint k) {
    if (!is_quantized(type)) return load_floats(type, base, n_blocks, i, k);
    const RawBlock raw = load_raw(type, base, n_blocks, i);
    const Codes c = codes_of(type, raw);
    const vec4 s = scales_of(type, raw);
    return k < 4 ? bytes_float(c.low[k]) * s.x + s.z : bytes_float(c.high[k - 4]) * s.y + s.w;
}

#endif
