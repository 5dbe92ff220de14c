// SPDX-License-Identifier: Apache-2.0
// Codes of index keys, beside the keys themselves: what a filter by token reads in their place. A dimension has 2^bits
// values, on a cubic curve that ascends, and its code is the place of the nearest; so a code takes up to 6 bits, and a
// row kCodeWords words of 16 bits, in none of which a code runs over the end.
//   plane   u16 blocks of kBlockSize rows, each [kCodeWords][row]: neighbouring rows are read from neighbouring words
//   tables  u32 per kv head and dimension: first bit in its word | bits << 8, then the terms of the curve
// Codes are of the keys as they are stored, so that they do not depend on who stored them. The includer defines
// kIndexDim and kBlockSize and declares both with CODE_PLANE and CODE_TABLES.
#ifndef WINNOW_INDEX_CODES_GLSL
#define WINNOW_INDEX_CODES_GLSL

const uint kCodeWords = kIndexDim < 16 ? 1 : kIndexDim * 3 / 16;

#define CODE_PLANE(place) layout(set = 0, binding = place, scalar) restrict buffer CodePlane { uint16_t code_plane[]; };
#define CODE_TABLES(place) layout(set = 0, binding = place, scalar) restrict readonly buffer CodeTables { uint code_tables[]; };

uint code_at(uint row, uint word) {
    return (row / kBlockSize * kCodeWords + word) * kBlockSize + row % kBlockSize;
}
// The dimension that has its code at place `column` of a word, kIndexDim or more where there is none: words take turns
// forth and back.
uint code_dim(uint word, uint column) {
    return column * kCodeWords + (column % 2 == 0 ? word : kCodeWords - 1 - word);
}
const uint kCodeColumns = (kIndexDim + kCodeWords - 1) / kCodeWords;

uint code_first(uint place) { return place & 0xff; }
uint code_bits(uint place) { return place >> 8; }

// For scores, which are rounded anyhow, so that a device may fuse its operations.
float code_value(vec4 curve, uint code) {
    const float k = float(code);
    return curve.x + k * (curve.y + k * (curve.z + k * curve.w));
}
// The code of x, by halving. Precise: the host finds the same.
uint code_of(float x, vec4 curve, uint bits) {
    uint code = 0;
    for (uint step = (1u << bits) / 2; step > 0; step /= 2) {
        precise float k = float(code + step - 1);
        precise float low = curve.x + k * (curve.y + k * (curve.z + k * curve.w));
        k += 1.0;
        precise float high = curve.x + k * (curve.y + k * (curve.z + k * curve.w));
        if (x >= 0.5 * (low + high)) code += step;
    }
    return code;
}

// The curve of the dimension whose table begins at `at`; a macro, since the includer declares the tables.
#define CODE_CURVE(at)                                                                                  \
    uintBitsToFloat(uvec4(code_tables[(at) + 1], code_tables[(at) + 2], code_tables[(at) + 3], code_tables[(at) + 4]))

// The codes of a row of value(0) .. value(kIndexDim - 1), by `n_workers` invocations of which this is `worker`.
#define CODE_STORE_ROW(row, value, tables_at, worker, n_workers)                                                        \
    for (uint code_word = worker; code_word < kCodeWords; code_word += n_workers) {                                     \
        uint code_w = 0;                                                                                                \
        for (uint code_c = 0; code_c < kCodeColumns; ++code_c) {                                                        \
            const uint code_r = code_dim(code_word, code_c);                                                            \
            if (code_r >= kIndexDim) continue;                                                                          \
            const uint code_table = (tables_at) + code_r * WINNOW_CODE_WORDS;                                           \
            const uint code_p = code_tables[code_table];                                                                \
            code_w |= code_of(value(code_r), CODE_CURVE(code_table), code_bits(code_p)) << code_first(code_p);          \
        }                                                                                                               \
        code_plane[code_at(row, code_word)] = uint16_t(code_w);                                                         \
    }

#endif
