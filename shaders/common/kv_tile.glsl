// SPDX-License-Identifier: Apache-2.0
// Rows of a pool (kv_store.glsl) on their way to matrix units, which take halves: in units of kUnitDims dimensions, sent
// for with TILE_FETCH as they lie in memory, and then as pairs of halves, tile_pair(unit, i). Quantised values round once
// more there, to 11 bits, and are paired in another order, which costs fewer instructions: dimensions 0 and 2, 1 and 3,
// 4 and 6, 5 and 7. Needs f16 arithmetic; the includer declares the pools with READ_WORDS.
#ifndef WINNOW_KV_TILE_GLSL
#define WINNOW_KV_TILE_GLSL

#if KV_QUANTIZED
const uint kUnitDims = kHeadDim % 128 == 0 ? 16 : 8;  // eight lanes share a row
struct TileUnit { uvec4 w; uint scale; };
#if KV_TYPE == WINNOW_KV_Q8_0
#define TILE_FETCH(name, row, unit, x)                                               \
    {                                                                                \
        if (kUnitDims == 16) x.w = name##_quad(code_unit(row, 2 * (unit)) / 2);      \
        else x.w.xy = name##_pair(code_unit(row, unit));                             \
        x.scale = name##_half(scale_half(row, (unit) * kUnitDims / 8));              \
    }
#else
#define TILE_FETCH(name, row, unit, x)                                               \
    {                                                                                \
        if (kUnitDims == 16) x.w.xy = name##_pair(code_unit(row, 2 * (unit)) / 2);   \
        else x.w[0] = name##_word(code_unit(row, unit));                        \
        x.scale = name##_half(scale_half(row, (unit) * kUnitDims / 8));              \
    }
#endif
// Codes in the lower bits of the halves of a word become the last bits of 1024.0, and are scaled.
uint tile_pair(TileUnit x, uint i) {
    const float16_t scale = unpackFloat2x16(x.scale).x;
#if KV_TYPE == WINNOW_KV_Q8_0
    const uint code = (x.w[i / 2] >> i % 2 * 8 & 0x00ff00ffu) ^ 0x64806480u;  // 1024 + 128 + value
    return packFloat2x16((unpackFloat2x16(code) - f16vec2(1152.0)) * scale);
#else
    const uint code = (x.w[i / 4] >> (i % 2 * 8 + i / 2 % 2 * 4) & 0x000f000fu) | 0x64006400u;
    return packFloat2x16((unpackFloat2x16(code) - f16vec2(1032.0)) * scale);
#endif
}
// Two words of halves in their own order as pairs, and of pairs back: it is its own inverse.
uvec2 half_pairs(uint a, uint b) { return uvec2((a & 0xffffu) | b << 16, a >> 16 | (b & 0xffff0000u)); }
// Eight dimensions in their own order.
uvec4 tile_quad(TileUnit x, uint part) {
    const uint a = tile_pair(x, 4 * part), b = tile_pair(x, 4 * part + 1);
    const uint c = tile_pair(x, 4 * part + 2), d = tile_pair(x, 4 * part + 3);
    return uvec4(half_pairs(a, b), half_pairs(c, d));
}
// How pairs have four dimensions, and back.
vec2 first_pair(vec4 x) { return x.xz; }
vec2 second_pair(vec4 x) { return x.yw; }
vec4 from_pairs(vec2 first, vec2 second) { return vec4(first.x, second.x, first.y, second.y); }
#else
const uint kUnitDims = 8;
struct TileUnit { uvec4 w; };
#define TILE_FETCH(name, row, unit, x) { x.w = name##_quad((row) * kRowUnits + (unit)); }
uint tile_pair(TileUnit x, uint i) { return x.w[i]; }
uvec4 tile_quad(TileUnit x, uint part) { return x.w; }
vec2 first_pair(vec4 x) { return x.xy; }
vec2 second_pair(vec4 x) { return x.zw; }
vec4 from_pairs(vec2 first, vec2 second) { return vec4(first, second); }
uvec2 half_pairs(uint a, uint b) { return uvec2(a, b); }
#endif

#endif
