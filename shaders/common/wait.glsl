// SPDX-License-Identifier: Apache-2.0
// Workgroups of a kv head that wait for each other in the middle of a dispatch, in place of a barrier between two.
//
// Vulkan promises no workgroup that another one runs, so that none may wait for ever: after kPatience looks it gives up
// and does by itself what it waited for. Whoever writes a word writes the same bits, so that no result depends on who
// waited. Two may write the same word at once then, and others read it: as aligned words of the same bits. Words that
// others might still have to read as they were before the dispatch the last one to leave writes, and no other.
// The host asks for this only where a processor each is known to be there (most_waiting()).
//
// The includer defines ARRIVAL_BINDING and kPatience.
#ifndef WINNOW_WAIT_GLSL
#define WINNOW_WAIT_GLSL

// By kv head: workgroups that have arrived | those that have left << 16. Zero between dispatches.
layout(set = 0, binding = ARRIVAL_BINDING, scalar) coherent buffer Arrivals { uint arrivals[]; };

shared uint n_arrived;

// What this workgroup has written is there. Returns whether what all n of them have written is there too. Called by the
// whole workgroup.
bool all_arrive(uint at, uint n) {
    memoryBarrierBuffer();
    barrier();
    if (gl_LocalInvocationIndex == 0) {
        uint here = (atomicAdd(arrivals[at], 1) & 0xffffu) + 1;
        for (uint look = 0; look < kPatience && here < n; ++look) here = atomicOr(arrivals[at], 0) & 0xffffu;
        n_arrived = here;
    }
    barrier();
    memoryBarrierBuffer();
    return n_arrived == n;
}

// After it no workgroup waits for this one, and this one reads nothing more that the last one to leave might write.
// Returns whether it is that one, which leaves the counter as it was. Called by one invocation, after a barrier.
bool is_last_to_leave(uint at, uint n) {
    memoryBarrierBuffer();
    if (atomicAdd(arrivals[at], 1u << 16) >> 16 != n - 1) return false;
    arrivals[at] = 0;
    memoryBarrierBuffer();
    return true;
}

#endif
