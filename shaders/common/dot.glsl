// SPDX-License-Identifier: Apache-2.0
// Packed 4x8-bit signed dot product. glslang 12 has no GL_EXT_integer_dot_product, so the instruction is declared by
// number (OpSDot, packed format 0); the feature is mandatory in Vulkan 1.3.
#ifndef WINNOW_DOT_GLSL
#define WINNOW_DOT_GLSL
#extension GL_EXT_spirv_intrinsics : require

spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int packed_dot(uint a, uint b, spirv_literal int format);

int dot16(uvec4 a, uvec4 b) {
    return packed_dot(a.x, b.x, 0) + packed_dot(a.y, b.y, 0) + packed_dot(a.z, b.z, 0) + packed_dot(a.w, b.w, 0);
}

#endif
