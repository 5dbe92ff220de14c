#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: where each element of a cooperative matrix stands that an invocation holds: out[matrix][lane][element] = row *
// columns + column (ffffffff where an invocation holds more or fewer than eight), for matrices A, B and accumulator in turn, 16 x 16 in subgroups of 32. Shaders that put elements
// into matrices themselves (attend_matrices.glsl) run only where this is what they expect.
// One workgroup handles: everything, in one subgroup.
// Bindings: 0 numbers from 0 on, f16 [256]; 1 the same f32 [256]; 2 out u32 [3, 32, 8]
// Needs: storage16, f16 arithmetic, cooperative matrix.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x = 32) in;
layout(set = 0, binding = 0, scalar) restrict readonly buffer Halves { float16_t halves[]; };
layout(set = 0, binding = 1, scalar) restrict readonly buffer Floats { float floats[]; };
layout(set = 0, binding = 2, scalar) restrict writeonly buffer Out { uint places[]; };

const uint kElements = 8;

void main() {
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> c;
    coopMatLoad(a, halves, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
    coopMatLoad(b, halves, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
    coopMatLoad(c, floats, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
    const uint at = gl_LocalInvocationIndex * kElements;
    [[unroll]] for (uint i = 0; i < kElements; ++i) {
        places[at + i] = a.length() == kElements ? uint(a[i]) : 0xffffffffu;
        places[32 * kElements + at + i] = b.length() == kElements ? uint(b[i]) : 0xffffffffu;
        places[64 * kElements + at + i] = c.length() == kElements ? uint(c[i]) : 0xffffffffu;
    }
}
