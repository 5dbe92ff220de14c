// SPDX-License-Identifier: Apache-2.0
// Storage of index keys: kIndexType is WINNOW_INDEX_F16 or WINNOW_INDEX_INT8. A row is a token of a head, by physical
// block as in the K pool.
//   f16   halves [row][kIndexDim]
//   int8  blocks of kBlockSize rows: first the codes of the block's rows, signed bytes [row][kIndexDim], then their scales f16 [row];
//         value = scale * code, so a key takes kIndexDim + 2 bytes and loads stay aligned to 8
// The includer defines kIndexType, kIndexDim and kBlockSize, includes kv_store.glsl first and declares the plane with
// INDEX_PLANE: coherent where it writes keys that others read in the same dispatch, else readonly.
#ifndef WINNOW_INDEX_KEYS_GLSL
#define WINNOW_INDEX_KEYS_GLSL

#define WINNOW_INDEX_F16 0
#define WINNOW_INDEX_INT8 1

const uint kIndexBlockBytes = kBlockSize * (kIndexDim + 2);  // int8
uint index_code(uint row) { return row / kBlockSize * kIndexBlockBytes + row % kBlockSize * kIndexDim; }  // byte
uint index_scale(uint row) { return (row / kBlockSize * kIndexBlockBytes + kBlockSize * kIndexDim) / 2 + row % kBlockSize; }  // half

// Several views of the plane; only those that the type reads are touched.
#define INDEX_PLANE(place, access)                                                              \
    layout(set = 0, binding = place, scalar) access buffer IndexQuads { uvec4 index_quads[]; }; \
    layout(set = 0, binding = place, scalar) access buffer IndexPairs { uvec2 index_pairs[]; }; \
    layout(set = 0, binding = place, scalar) access buffer IndexWords { uint index_words[]; };  \
    layout(set = 0, binding = place, scalar) access buffer IndexHalves { uint16_t index_halves[]; };

vec4 index_bytes(uint w) {
    return vec4(bitfieldExtract(int(w), 0, 8), bitfieldExtract(int(w), 8, 8), bitfieldExtract(int(w), 16, 8),
                bitfieldExtract(int(w), 24, 8));
}

// Dimensions 8 * unit .. of a row into two vec4. Macros: 16-bit types may be loaded and converted, but not passed to
// functions.
#define INDEX_LOAD(row, unit, a, b)                                                          \
    if (kIndexType == WINNOW_INDEX_INT8) {                                                   \
        const uvec2 index_w = index_pairs[index_code(row) / 8 + (unit)];                     \
        const float index_s = unpackHalf2x16(uint(index_halves[index_scale(row)])).x;        \
        a = index_s * index_bytes(index_w.x);                                                \
        b = index_s * index_bytes(index_w.y);                                                \
    } else {                                                                                 \
        const uvec4 index_w = index_quads[(row) * (kIndexDim / 8) + (unit)];                 \
        a = vec4(unpackHalf2x16(index_w.x), unpackHalf2x16(index_w.y));                      \
        b = vec4(unpackHalf2x16(index_w.z), unpackHalf2x16(index_w.w));                      \
    }

// One value, through the views that are written: validation takes a view that is only read for a read of its own.
#define INDEX_VALUE(row, dim)                                                                                            \
    (kIndexType == WINNOW_INDEX_INT8                                                                                     \
         ? unpackHalf2x16(uint(index_halves[index_scale(row)])).x *                                                      \
               float(bitfieldExtract(int(index_words[(index_code(row) + (dim)) / 4]), int((dim) % 4 * 8), 8))            \
         : unpackHalf2x16(uint(index_halves[(row) * kIndexDim + (dim)])).x)

// Largest magnitude of a key that is about to be stored, value(0) .. value(kIndexDim - 1): what its scale and codes
// follow from.
#define INDEX_LARGEST(largest, value)      \
    float largest = 0.0;                   \
    if (kIndexType == WINNOW_INDEX_INT8)   \
        for (uint index_r = 0; index_r < kIndexDim; ++index_r) largest = max(largest, abs(value(index_r)));

float index_step(float largest) { return round_half(largest / 127.0); }
int index_level(float x, float largest) {
    const float s = index_step(largest);
    return s == 0.0 ? 0 : int(clamp(roundEven(x / s), -127.0, 127.0));
}
// What a reader will see of a value.
float index_stored(float x, float largest) {
    return kIndexType == WINNOW_INDEX_INT8 ? index_step(largest) * float(index_level(x, largest)) : round_half(x);
}

// A whole row of value(0) .. value(kIndexDim - 1), by `n_workers` invocations of which this is `worker`.
#define INDEX_STORE_ROW(row, value, largest, worker, n_workers)                                                        \
    if (kIndexType == WINNOW_INDEX_INT8) {                                                                              \
        for (uint index_u = worker; index_u < kIndexDim / 4; index_u += n_workers) {                                    \
            uint index_w = 0;                                                                                           \
            for (uint index_e = 0; index_e < 4; ++index_e)                                                              \
                index_w |= (uint(index_level(value(4 * index_u + index_e), largest)) & 0xffu) << (8 * index_e);        \
            index_words[index_code(row) / 4 + index_u] = index_w;                                                       \
        }                                                                                                               \
        if (worker == 0) index_halves[index_scale(row)] = uint16_t(packHalf2x16(vec2(index_step(largest), 0.0)));       \
    } else {                                                                                                            \
        for (uint index_r = worker; index_r < kIndexDim; index_r += n_workers)                                          \
            index_halves[(row) * kIndexDim + index_r] = uint16_t(packHalf2x16(vec2(value(index_r), 0.0)));             \
    }

#endif
