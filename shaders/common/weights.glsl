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

layout(set = 0, binding = W_BINDING, scalar) readonly buffer WeightQuads { uvec4 w_quads[]; };
layout(set = 0, binding = W_BINDING, scalar) readonly buffer WeightWords { uint w_words[]; };
layout(set = 0, binding = W_BINDING, scalar) readonly buffer WeightHalves { uint16_t w_halves[]; };

// Whether blocks are integer codes (value = scale * code + offset) or plain floats.
bool is_quantized(uint type) { return type != TYPE_F32 && type != TYPE_F16 && type != TYPE_BF16; }
// Whether the two halves of a block have scales of their own.
bool has_half_scales(uint type) { return type == TYPE_Q6_K; }

uint align_quads(uint n_bytes) { return (n_bytes + 15) / 16; }

// 16-byte words of the quants, before the planes that follow them.
uint quant_quads(uint type, uint n_blocks) {
    if (type == TYPE_Q8_0) return 2 * n_blocks;
    if (type == TYPE_F16 || type == TYPE_BF16) return 4 * n_blocks;
    if (type == TYPE_F32) return 8 * n_blocks;
    return n_blocks;
}

uint high_bytes(uint type) {
    if (type == TYPE_Q5_0 || type == TYPE_Q5_1 || type == TYPE_Q5_K) return 4;
    if (type == TYPE_Q6_K) return 8;
    return 0;
}

uint scale_bytes(uint type) { return type == TYPE_Q4_1 || type == TYPE_Q5_1 ? 4 : 2; }

// First word of each plane; n_blocks = rows x blocks per row of the stored matrix.
uint high_quad(uint type, uint base, uint n_blocks) { return base + quant_quads(type, n_blocks); }
uint scale_quad(uint type, uint base, uint n_blocks) {
    return high_quad(type, base, n_blocks) + align_quads(n_blocks * high_bytes(type));
}
uint super_quad(uint type, uint base, uint n_blocks) {
    return scale_quad(type, base, n_blocks) + align_quads(n_blocks * scale_bytes(type));
}

// 32 codes as packed signed bytes: words 0-3 hold weights 0-15, words 4-7 weights 16-31.
struct Codes {
    uvec4 low;
    uvec4 high;
};

Codes load_codes(uint type, uint base, uint n_blocks, uint i) {
    Codes c;
    const uvec4 quad = w_quads[base + i];
    if (type == TYPE_Q8_0) {
        c.low = quad;
        c.high = w_quads[base + n_blocks + i];
        return c;
    }
    c.low = quad & 0x0f0f0f0fu;
    c.high = (quad >> 4) & 0x0f0f0f0fu;
    if (high_bytes(type) == 4) {
        const uint h = w_words[4 * high_quad(type, base, n_blocks) + i];
        c.low |= ((uvec4(h) >> uvec4(0, 1, 2, 3)) & 0x01010101u) << 4;
        c.high |= ((uvec4(h) >> uvec4(4, 5, 6, 7)) & 0x01010101u) << 4;
    }
    if (type == TYPE_Q6_K) {
        const uint at = 4 * high_quad(type, base, n_blocks) + 2 * i;
        c.low |= ((uvec4(w_words[at]) >> uvec4(0, 2, 4, 6)) & 0x03030303u) << 4;
        c.high |= ((uvec4(w_words[at + 1]) >> uvec4(0, 2, 4, 6)) & 0x03030303u) << 4;
    }
    return c;
}

float half_at(uint index) { return unpackHalf2x16(uint(w_halves[index])).x; }

// Scale and offset of the two halves of a block: (scale low, scale high, offset low, offset high).
vec4 load_scales(uint type, uint base, uint n_blocks, uint i) {
    const uint plane = scale_quad(type, base, n_blocks);
    if (type == TYPE_Q4_1 || type == TYPE_Q5_1) {
        const vec2 dm = unpackHalf2x16(w_words[4 * plane + i]);
        return dm.xxyy;
    }
    if (type == TYPE_Q4_K || type == TYPE_Q5_K) {
        const uint sm = uint(w_halves[8 * plane + i]);
        const vec2 d = unpackHalf2x16(w_words[4 * super_quad(type, base, n_blocks) + i / 8]);
        const float scale = d.x * float(sm & 0xffu);
        const float offset = -d.y * float(sm >> 8);
        return vec4(scale, scale, offset, offset);
    }
    if (type == TYPE_Q6_K) {
        const int ss = int(uint(w_halves[8 * plane + i]));
        const float d = half_at(8 * super_quad(type, base, n_blocks) + i / 8);
        const vec2 scale = d * vec2(float(bitfieldExtract(ss, 0, 8)), float(bitfieldExtract(ss, 8, 8)));
        return vec4(scale, -32.0 * scale);
    }
    const float d = half_at(8 * plane + i);
    const float offset = type == TYPE_Q4_0 ? -8.0 * d : (type == TYPE_Q5_0 ? -16.0 * d : 0.0);
    return vec4(d, d, offset, offset);
}

// Four values of an unquantised block: weights 4*k .. 4*k+3, k in 0..7.
vec4 load_floats(uint type, uint base, uint n_blocks, uint i, uint k) {
    if (type == TYPE_F32) return uintBitsToFloat(w_quads[base + k * n_blocks + i]);
    const uvec4 quad = w_quads[base + (k / 2) * n_blocks + i];
    const uvec2 pair = (k & 1) == 0 ? quad.xy : quad.zw;
    if (type == TYPE_F16) return vec4(unpackHalf2x16(pair.x), unpackHalf2x16(pair.y));
    return uintBitsToFloat(uvec4(pair.x << 16, pair.x & 0xffff0000u, pair.y << 16, pair.y & 0xffff0000u));
}

// Sign-extended byte j of a word as a float.
float byte_float(uint word, int j) { return float(bitfieldExtract(int(word), 8 * j, 8)); }
vec4 bytes_float(uint word) {
    return vec4(byte_float(word, 0), byte_float(word, 1), byte_float(word, 2), byte_float(word, 3));
}

// Dequantised weights 4*k .. 4*k+3 of block i.
vec4 load_values(uint type, uint base, uint n_blocks, uint i, uint k) {
    if (!is_quantized(type)) return load_floats(type, base, n_blocks, i, k);
    const Codes c = load_codes(type, base, n_blocks, i);
    const vec4 s = load_scales(type, base, n_blocks, i);
    return k < 4 ? bytes_float(c.low[k]) * s.x + s.z : bytes_float(c.high[k - 4]) * s.y + s.w;
}

#endif
