#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: the budget rule over more tokens than one workgroup gets through in time, after indexer_score has scored
// them. Every workgroup ranks and counts its range; when all have, the cut is found; then every workgroup writes its
// part of the sorted list, whose place it knows from what the ranges before it counted. In two dispatches (kPass), where
// the last workgroup of each kv head finds the cut for the second; or in one, where they wait for each other and each
// finds the cut by itself. One that gives up waiting ranks and counts all rows of its kv head.
// One workgroup handles: one of kSplits ranges of one kv head's rows (tokens).
// Bindings: 0 state; 1 block table; 2 lists u32 of this level; 3 lists of the level above; 4 scores f32 [n_heads,
//   max_rows]; 5 (log of the denominator, share of sinks and window) of each head [n_kv_heads, kScoreSplits + 1,
//   kGroup], the first of each kv head; 6 ranks u16 [n_kv_heads, max_rows]; 7 bins of all ranges u32 [n_kv_heads,
//   1 + kGroup or 1 (nobody asks for mass), kBins], zero between dispatches; 8 tokens up to each bin u32 [n_kv_heads,
//   kSplits, kBins]; 9 arrivals u32 by kv head; 10 controls; 11 policies; 12 cuts, from dispatch to dispatch; 13 mass
//   that dropped rows hold, log, f32 [n_heads]
// Needs: subgroup arithmetic.
#extension GL_EXT_scalar_block_layout : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

#include "shaders/common/interface.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 128;
layout(constant_id = 1) const uint kGroup = 3;
layout(constant_id = 2) const uint kSubgroups = 16;
layout(constant_id = 3) const uint kSplits = 8;
layout(constant_id = 4) const uint kScoreSplits = 8;
layout(constant_id = 5) const uint kBlockSize = 64;
layout(constant_id = 6) const uint kParentUnit = 0;  // tokens of a row of the level above; 0 = no level above
layout(constant_id = 7) const uint kRule = 1;
layout(constant_id = 8) const uint kPool = 0;
layout(constant_id = 9) const uint kMaxRows = 16;    // stride of the scores, a multiple of 16
layout(constant_id = 10) const uint kBins = 1024;    // of the ranking: 32 nats in all
layout(constant_id = 11) const uint kPass = WINNOW_ROWS_COUNT;
layout(constant_id = 12) const uint kFinal = 1;      // 0: a level comes after this one
layout(constant_id = 13) const uint kPatience = 0;   // looks at the others' arrivals; two dispatches: 0

#define STATE_BINDING 0
#define TABLE_BINDING 1
#define ARRIVAL_BINDING 9
#include "shaders/common/step_state.glsl"
#include "shaders/common/kv.glsl"
#include "shaders/common/wait.glsl"

layout(push_constant, scalar) uniform Push { SelectPush push; };
layout(set = 0, binding = 2, scalar) restrict writeonly buffer Lists { uint lists[]; };
layout(set = 0, binding = 3, scalar) restrict readonly buffer Parents { uint parents[]; };
layout(set = 0, binding = 4, scalar) restrict readonly buffer Scores { vec4 score_quads[]; };
layout(set = 0, binding = 5, scalar) restrict readonly buffer Denominators { vec2 denominators[]; };
layout(set = 0, binding = 6, scalar) coherent buffer Ranks { uvec4 ranks[]; };  // 8 rows in each
layout(set = 0, binding = 7, scalar) coherent buffer Bins { uint bins[]; };
layout(set = 0, binding = 7, scalar) coherent buffer BinQuads { uvec4 bin_quads[]; };
layout(set = 0, binding = 8, scalar) coherent buffer Through { uint through[]; };
layout(set = 0, binding = 10, scalar) coherent buffer Controls { SelectControl controls[]; };
layout(set = 0, binding = 11, scalar) restrict readonly buffer Policies { HeadPolicy policies[]; };
layout(set = 0, binding = 12, scalar) restrict buffer Cuts { SelectCut cuts[]; };
layout(set = 0, binding = 13, scalar) restrict writeonly buffer Dropped { float dropped[]; };

const uint kUnit = 1;
#include "shaders/common/candidates.glsl"

const uint kNeverKept = 0xffff;  // as a rank in memory
const uint kScanned = 1 + (kNeedsMass ? kGroup : 0);
const uint kBinQuads = kScanned * kBins / 4;

shared uint before_range[2];  // tokens of earlier ranges in bins before the cut, and at it
shared uint is_last;

uint packed_rank(uint k) { return held_rank[k] == kOutside ? kNeverKept : min(held_rank[k], kNeverKept - 1); }

// Holds rows, and leaves their ranks for write_range().
void load_rows(uint first, uint end, float threshold) {
    hold_scored_rows(first, end, threshold);
    [[unroll]] for (uint k = 0; k < kHeld; ++k)
        if (held_rank[k] != kOutside) held_rank[k] = min(held_rank[k], kNeverKept - 1);
    [[unroll]] for (uint k = 0; k < kHeld; k += 8) {
        if (first + k >= end) break;
        uvec4 words;
        [[unroll]] for (uint i = 0; i < 4; ++i) words[i] = packed_rank(k + 2 * i) | packed_rank(k + 2 * i + 1) << 16;
        ranks[(kv_head * kMaxRows + first + k) / 8] = words;
    }
}

// Rows of a range, a multiple of kHeld so that no word of ranks is shared.
uint range_rows(uint n_rows) { return (n_rows + kSplits * kHeld - 1) / (kSplits * kHeld) * kHeld; }

// What has been counted, as a range's: its tokens up to each bin, and everything into the bins of the kv head.
void publish_bins(uint split) {
    uint own = 0, all;
    [[unroll]] for (uint i = 0; i < kBinsEach; ++i) own += bin_value(0, gl_LocalInvocationIndex * kBinsEach + i);
    uint sum = scan_before(own, 0, all);
    [[unroll]] for (uint i = 0; i < kBinsEach; ++i) {
        const uint bin = gl_LocalInvocationIndex * kBinsEach + i;
        sum += bin_value(0, bin);
        if (bin < kBins) through[(kv_head * kSplits + split) * kBins + bin] = sum;
    }
    for (uint i = gl_LocalInvocationIndex; i < kScanned * kBins; i += kGroupSize) {
        const uint value = bin_value(i / kBins, i % kBins);
        if (value != 0) atomicAdd(bins[kv_head * kScanned * kBins + i], value);
    }
}
// What all ranges have counted, in place of this one's.
void fetch_bins() {
    for (uint i = gl_LocalInvocationIndex; i < kBinQuads; i += kGroupSize) {
        const uvec4 quad = bin_quads[kv_head * kBinQuads + i];
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            if (4 * i < kBins) select_count[4 * i + e] = quad[e];
            else if (kNeedsMass) select_mass[4 * i - kBins + e] = quad[e];
        }
    }
}
void clear_bins() {
    for (uint i = gl_LocalInvocationIndex; i < kBinQuads; i += kGroupSize) bin_quads[kv_head * kBinQuads + i] = uvec4(0);
}

// Where the ranking is cut, from the bins of all ranges or, by one that gave up (`alone`), of all rows. False: another
// workgroup finds it.
bool find_cut(uint split, uint n_active, uint begin, uint end, uint n_rows, HeadPolicy rule, out SelectCut cut, out bool alone) {
    if (gl_LocalInvocationIndex < kGroup) {
        const vec2 head = denominators[kv_head * (kScoreSplits + 1) * kGroup + gl_LocalInvocationIndex];
        shared_lse[gl_LocalInvocationIndex] = head.x;
        select_before_mass[gl_LocalInvocationIndex] = uint(head.y * kMassUnit);
    }
    if (gl_LocalInvocationIndex == 0) select_before_count[0] = 0;
    barrier();
    uint coarse[kRankings];
    coarse[0] = kBins;
    // One loop for both, so that the code of counting is there once.
    for (alone = false; ; alone = true) {
        count_bins(0, coarse, alone ? 0 : begin, alone ? n_rows : end, rule.threshold);
        if (kPass == WINNOW_ROWS_ONCE && alone) break;
        publish_bins(split);
        if (all_arrive(push.counter + kv_head, n_active)) {
            fetch_bins();
            break;
        }
        if (kPass != WINNOW_ROWS_ONCE) return false;
    }
    memoryBarrierBuffer();
    barrier();
    find_cuts(0, coarse, rule);
    const uint before = select_before_count[0];  // everything, where there is no cut
    cut = SelectCut(1, select_cut[0], rule.budget_max - min(rule.budget_max, before));
    return true;
}

// What others are told of the list, and that it is there.
void finish_list(SelectCut cut) {
    const uint at_cut = cut.bin < kBins ? min(cut.room, select_count[cut.bin]) : 0;
    if (kFinal == 0 && gl_LocalInvocationIndex < kGroup) {
        // What is not kept still holds attention: the next level's denominator has it. Of the bin that the cut goes
        // through only so much is known as that its rows count as equal.
        const uint g = gl_LocalInvocationIndex;
        float kept = float(select_before_mass[g]);
        if (at_cut > 0) kept += float(select_mass[g * kBins + cut.bin]) * float(at_cut) / float(select_count[cut.bin]);
        dropped[kv_head * kGroup + g] = shared_lse[g] + log(max(1.0 - kept / kMassUnit, 1.0e-9));
    }
    const uint n = min(select_before_count[0] + at_cut, push.list_stride);
    if (gl_LocalInvocationIndex == 0)
        controls[push.control + kv_head] = SelectControl(n, n, middle_end, position + 1);
}

// The range's part of the list. `alone`: with the parts before it, since only the ranks of all rows are known.
void write_range(uint split, uint begin, uint end, SelectCut cut, bool alone) {
    if (gl_LocalInvocationIndex < 2) before_range[gl_LocalInvocationIndex] = 0;
    barrier();
    for (uint s = gl_LocalInvocationIndex; s < split && !alone; s += kGroupSize) {
        const uint at = (kv_head * kSplits + s) * kBins;
        const uint below = cut.bin == 0 ? 0 : through[at + cut.bin - 1];
        atomicAdd(before_range[0], below);
        if (cut.bin < kBins) atomicAdd(before_range[1], through[at + cut.bin] - below);
    }
    barrier();
    uint at_cut = min(cut.room, before_range[1]);  // kept so far
    const uint list_end = push.list_offset + (kv_head + 1) * push.list_stride;
    uint written = list_end - push.list_stride + before_range[0] + at_cut;
    uint place = 0;
    for (uint base = alone ? 0 : begin; base < end; base += kGroupSize * 8) {
        const uint first = base + gl_LocalInvocationIndex * 8;
        const uvec4 words = first < end ? ranks[(kv_head * kMaxRows + first) / 8] : uvec4(0xffffffffu);
        uint below = 0, at = 0;  // a bit for each row
        [[unroll]] for (uint k = 0; k < 8; ++k) {
            const uint rank = words[k / 2] >> (16 * (k % 2)) & 0xffff;
            if (rank == kNeverKept) continue;
            const uint bin = rank / kRanksPerBin;
            below |= (bin < cut.bin ? 1 : 0) << k;
            at |= (bin == cut.bin ? 1 : 0) << k;
        }
        // Both sums in one scan: neither passes 8 kGroupSize, less than 2^16.
        uint all;
        const uint before = scan_before(bitCount(below) | bitCount(at) << 16, place, all);
        place ^= 1;
        uint at_before = at_cut + (before >> 16);
        uint to = written + (before & 0xffff) + min(cut.room, at_before) - min(cut.room, at_cut);
        [[unroll]] for (uint k = 0; k < 8; ++k) {
            const bool is_at = (at >> k & 1) != 0;
            if ((below >> k & 1) != 0 || (is_at && at_before < cut.room)) {
                if (to < list_end) lists[to] = row_unit(first + k);  // never into the next head's
                ++to;
            }
            if (is_at) ++at_before;
        }
        written += (all & 0xffff) + min(cut.room, at_cut + (all >> 16)) - min(cut.room, at_cut);
        at_cut += all >> 16;
    }
}

void main() {
    if (state.stopped != 0) return;
    const uint split = gl_WorkGroupID.x;
    kv_head = gl_WorkGroupID.y;
    position = state.position;
    const bool is_new =
        kPass == WINNOW_ROWS_WRITE ? cuts[kv_head].is_new != 0 : controls[push.control + kv_head].n_list == WINNOW_LIST_PENDING;
    if (!is_new) {
        if (kPass == WINNOW_ROWS_COUNT && split == 0 && gl_LocalInvocationIndex == 0) cuts[kv_head].is_new = 0;
        return;
    }
    find_candidates();
    const uint n_rows = n_level_rows();
    const uint rows = range_rows(n_rows);
    const uint n_active = rows == 0 ? 1 : (n_rows + rows - 1) / rows;
    if (split >= n_active) return;
    const uint begin = split * rows;
    const uint end = min(begin + rows, n_rows);
    SelectCut cut;
    bool alone = false;
    if (kPass == WINNOW_ROWS_WRITE) cut = cuts[kv_head];
    else if (!find_cut(split, n_active, begin, end, n_rows, rule_of_head(), cut, alone)) return;
    if (kPass == WINNOW_ROWS_COUNT) {
        if (gl_LocalInvocationIndex == 0) {
            cuts[kv_head] = cut;
            arrivals[push.counter + kv_head] = 0;
        }
        clear_bins();
        finish_list(cut);
        return;
    }
    // The bins have been read, and whether the list is due.
    bool last = false;
    if (kPass == WINNOW_ROWS_ONCE && gl_LocalInvocationIndex == 0)
        last = is_last_to_leave(push.counter + kv_head, n_active);
    write_range(split, begin, end, cut, alone);
    if (kPass == WINNOW_ROWS_WRITE) return;
    if (gl_LocalInvocationIndex == 0) is_last = last ? 1 : 0;
    barrier();
    if (is_last == 0) return;
    clear_bins();
    finish_list(cut);
}
