// SPDX-License-Identifier: Apache-2.0
// Index query of a kv head's query heads, which index keys and their codes are scored with: the queries in the few
// dimensions that the layer's map takes them to. The includer defines kGroup, kGroupSize, kHeadDim, kIndexDim, kv_head,
// MAP_BINDING and the two functions declared here.
#ifndef WINNOW_INDEX_QUERY_GLSL
#define WINNOW_INDEX_QUERY_GLSL

layout(set = 0, binding = MAP_BINDING, scalar) restrict readonly buffer MapQuads { vec4 map_quads[]; };

vec4 query_quad(uint at);                          // of all query heads' queries, four dimensions
void put_index_query(uint g, uint r, float value);  // in shared memory

// Four lanes to a value, so that few values are taken one after another and the loads of one overlap. The caller's
// barrier follows.
void stage_index_query() {
    const uint part = gl_LocalInvocationIndex % 4;
    for (uint first = 0; first < kGroup * kIndexDim; first += kGroupSize / 4) {
        const uint i = min(first + gl_LocalInvocationIndex / 4, kGroup * kIndexDim - 1);
        const uint query_at = (kv_head * kGroup + i / kIndexDim) * kHeadDim / 4;
        const uint map_at = (push.maps + (kv_head * 2 * kIndexDim + i % kIndexDim) * kHeadDim) / 4;
        float sum = 0.0;
        [[unroll]] for (uint c = 0; c < kHeadDim / 4; c += 4)
            if (c + part < kHeadDim / 4) sum += dot(map_quads[map_at + c + part], query_quad(query_at + c + part));
        sum += subgroupShuffleXor(sum, 1);
        sum += subgroupShuffleXor(sum, 2);
        if (part == 0 && first + gl_LocalInvocationIndex / 4 < kGroup * kIndexDim) put_index_query(i / kIndexDim, i % kIndexDim, sum);
    }
}

#endif
