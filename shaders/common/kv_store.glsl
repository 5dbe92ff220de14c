// SPDX-License-Identifier: Apache-2.0
// Storage of keys and values: KV_TYPE is WINNOW_KV_F32, _F16, _Q8_0 or _Q4_0. Conversions alone need no f16 arithmetic.
// A pool is [n_physical] blocks of kBlockSize rows (a token of a head). Floats: [row][kHeadDim]. Quantised: first the
// codes of the block's rows, then their scales f16 [row][kScales], one for 32 dimensions (the last one may have fewer):
//   q8_0  value = scale * code, code a signed byte
//   q4_0  value = scale * (code - 8); word u of a row: low nibbles of its bytes = dimensions 8u .. 8u+3, high = 8u+4 .. 8u+7
// The includer defines kHeadDim and kBlockSize, declares pools that it writes with KV_POOL and those that it reads with
// READ_WORDS (words.glsl), and reads rows in units of 8 dimensions with KV_LOAD.
#ifndef WINNOW_KV_STORE_GLSL
#define WINNOW_KV_STORE_GLSL

#define WINNOW_KV_F32 0
#define WINNOW_KV_F16 1
#define WINNOW_KV_Q4_0 2
#define WINNOW_KV_Q8_0 8
#define KV_QUANTIZED (KV_TYPE == WINNOW_KV_Q8_0 || KV_TYPE == WINNOW_KV_Q4_0)

const uint kRowUnits = kHeadDim / 8;
#if KV_QUANTIZED
const uint kScales = (kHeadDim + 31) / 32;
const uint kCodeBytes = KV_TYPE == WINNOW_KV_Q8_0 ? kHeadDim : kHeadDim / 2;
const uint kKvBlockBytes = kBlockSize * (kCodeBytes + 2 * kScales);
// Index of unit `unit` of a row among the codes (8 bytes of q8_0, 4 of q4_0), and of its scale among the halves.
uint code_unit(uint row, uint unit) {
    return row / kBlockSize * (kKvBlockBytes / (kCodeBytes / kRowUnits)) + row % kBlockSize * kRowUnits + unit;
}
uint scale_half(uint row, uint unit) {
    return row / kBlockSize * (kKvBlockBytes / 2) + kBlockSize * kCodeBytes / 2 + row % kBlockSize * kScales + unit / 4;
}
vec4 code_bytes(uint w) {
    return vec4(bitfieldExtract(int(w), 0, 8), bitfieldExtract(int(w), 8, 8), bitfieldExtract(int(w), 16, 8),
                bitfieldExtract(int(w), 24, 8));
}
vec4 code_nibbles(uint w) { return vec4(w & 0xfu, w >> 8 & 0xfu, w >> 16 & 0xfu, w >> 24 & 0xfu) - 8.0; }
#endif

// Values of a float as a half and back. NVIDIA's compiler takes unpack(pack(x)) for x, so the half's bits become a
// float by hand; a subnormal half by its number, since shifted it would be a subnormal float, which devices may take
// for zero.
float round_half(float x) {
    const uint h = packHalf2x16(vec2(x, 0.0)), m = h & 0x7fffu;
    const float y = m < 0x400u ? float(m) * 5.9604644775390625e-8 : uintBitsToFloat((m << 13) + 0x38000000u);
    return (h & 0x8000u) != 0 ? -y : y;
}

vec4 round_halves(vec4 x) { return vec4(round_half(x.x), round_half(x.y), round_half(x.z), round_half(x.w)); }

// Several views of one pool; only those that the type writes are touched.
#define KV_POOL(name, place, access)                                                              \
    layout(set = 0, binding = place, scalar) access buffer name##Pairs { uvec2 name##_pairs[]; };  \
    layout(set = 0, binding = place, scalar) access buffer name##Words { uint name##_words[]; };   \
    layout(set = 0, binding = place, scalar) access buffer name##Floats { float name##_floats[]; }; \
    layout(set = 0, binding = place, scalar) access buffer name##Halves { uint16_t name##_halves[]; };

// A unit of a row, dimensions 8 * unit .. (row: physical block * kBlockSize + place in it), as it lies in memory:
// KV_FETCH sends for it, kv_unpack makes two vec4 of it, KV_LOAD does both. Macros, because buffers cannot be passed to
// functions.
#if KV_TYPE == WINNOW_KV_F16
struct KvUnit { uvec4 w; };
#define KV_FETCH(name, row, unit, x) { x.w = name##_quad((row) * kRowUnits + (unit)); }
void kv_unpack(KvUnit x, out vec4 a, out vec4 b) {
    a = vec4(unpackHalf2x16(x.w.x), unpackHalf2x16(x.w.y));
    b = vec4(unpackHalf2x16(x.w.z), unpackHalf2x16(x.w.w));
}
#define KV_VALUE(name, row, dim) unpackHalf2x16(name##_half((row) * kHeadDim + (dim))).x
#define KV_STORE(name, row, dim, x) name##_halves[(row) * kHeadDim + (dim)] = uint16_t(packHalf2x16(vec2(x, 0.0)))
#elif KV_TYPE == WINNOW_KV_F32
struct KvUnit { uvec4 w, v; };
#define KV_FETCH(name, row, unit, x)                             \
    {                                                            \
        x.w = name##_quad(((row) * kRowUnits + (unit)) * 2);     \
        x.v = name##_quad(((row) * kRowUnits + (unit)) * 2 + 1); \
    }
void kv_unpack(KvUnit x, out vec4 a, out vec4 b) {
    a = uintBitsToFloat(x.w);
    b = uintBitsToFloat(x.v);
}
#define KV_VALUE(name, row, dim) uintBitsToFloat(name##_word((row) * kHeadDim + (dim)))
#define KV_STORE(name, row, dim, x) name##_floats[(row) * kHeadDim + (dim)] = x
#elif KV_TYPE == WINNOW_KV_Q8_0
struct KvUnit { uvec2 w; uint scale; };
#define KV_FETCH(name, row, unit, x)                  \
    {                                                 \
        x.w = name##_pair(code_unit(row, unit));      \
        x.scale = name##_half(scale_half(row, unit)); \
    }
void kv_unpack(KvUnit x, out vec4 a, out vec4 b) {
    const float d = unpackHalf2x16(x.scale).x;
    a = d * code_bytes(x.w.x);
    b = d * code_bytes(x.w.y);
}
#define KV_VALUE(name, row, dim)                                                        \
    (unpackHalf2x16(name##_half(scale_half(row, (dim) / 8))).x *                \
     code_bytes(name##_word(code_unit(row, 0) * 2 + (dim) / 4))[(dim) % 4])
#else
struct KvUnit { uint w, scale; };
#define KV_FETCH(name, row, unit, x)                  \
    {                                                 \
        x.w = name##_word(code_unit(row, unit));      \
        x.scale = name##_half(scale_half(row, unit)); \
    }
void kv_unpack(KvUnit x, out vec4 a, out vec4 b) {
    const float d = unpackHalf2x16(x.scale).x;
    a = d * code_nibbles(x.w);
    b = d * code_nibbles(x.w >> 4);
}
#define KV_VALUE(name, row, dim)                                                        \
    (unpackHalf2x16(name##_half(scale_half(row, (dim) / 8))).x *                \
     code_nibbles(name##_word(code_unit(row, (dim) / 8)) >> ((dim) % 8 / 4 * 4))[(dim) % 4])
#endif
#define KV_LOAD(name, row, unit, a, b)     \
    {                                      \
        KvUnit kv_x;                       \
        KV_FETCH(name, row, unit, kv_x)    \
        kv_unpack(kv_x, a, b);             \
    }

// Block summaries are floats of their own: f32 beside an f32 cache, else halves.
#if KV_TYPE == WINNOW_KV_F32
#define SUMMARY_T float
#define to_summary(x) (x)
#define from_summary(value) (value)
float round_summary(float x) { return x; }
#else
#define SUMMARY_T uint16_t
#define to_summary(x) uint16_t(packHalf2x16(vec2(x, 0.0)))
#define from_summary(value) unpackHalf2x16(uint(value)).x
float round_summary(float x) { return round_half(x); }
#endif

#endif
