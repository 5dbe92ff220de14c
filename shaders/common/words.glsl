// SPDX-License-Identifier: Apache-2.0
// A buffer that a shader only reads, in words of 16, 8, 4 or 2 bytes: name_quad(i), name_pair(i), name_word(i),
// name_half(i), i in such words. Software drivers load from storage buffers one lane after another and put the vector
// together in memory; texels they gather in registers, 5 to 20 times faster. So there (WINNOW_TEXELS,
// Feature::kTexelLoads) the same buffer is bound as 16-byte texels.
#ifndef WINNOW_WORDS_GLSL
#define WINNOW_WORDS_GLSL

#ifdef WINNOW_TEXELS
#define READ_WORDS(name, place, access)                                              \
    layout(set = 0, binding = place) uniform usamplerBuffer name##_texels;           \
    uvec4 name##_quad(uint i) { return texelFetch(name##_texels, int(i)); }          \
    uint name##_word(uint i) { return name##_quad(i / 4)[i % 4]; }                   \
    uvec2 name##_pair(uint i) {                                                      \
        const uvec4 quad = name##_quad(i / 2);                                       \
        return i % 2 == 0 ? quad.xy : quad.zw;                                       \
    }                                                                                \
    uint name##_half(uint i) { return name##_word(i / 2) >> 16 * (i % 2) & 0xffffu; }
#else
#define READ_WORDS(name, place, access)                                                           \
    layout(set = 0, binding = place, scalar) access buffer name##Quads { uvec4 name##_quads[]; };  \
    layout(set = 0, binding = place, scalar) access buffer name##Pairs { uvec2 name##_pairs[]; };  \
    layout(set = 0, binding = place, scalar) access buffer name##Words { uint name##_words[]; };   \
    layout(set = 0, binding = place, scalar) access buffer name##Halves { uint16_t name##_halves[]; }; \
    uvec4 name##_quad(uint i) { return name##_quads[i]; }                                         \
    uvec2 name##_pair(uint i) { return name##_pairs[i]; }                                         \
    uint name##_word(uint i) { return name##_words[i]; }                                          \
    uint name##_half(uint i) { return uint(name##_halves[i]); }
#endif

#endif
