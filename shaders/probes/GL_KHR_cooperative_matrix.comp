#version 460
// SPDX-License-Identifier: Apache-2.0
// Compiles only where glslang and spirv-val know cooperative matrices.
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

layout(local_size_x = 32) in;
layout(set = 0, binding = 0) buffer Data { float16_t data[]; };

void main() {
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
    coopMatLoad(a, data, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
    coopMatStore(a, data, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
}
