#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: the budget rule and the attention over what it keeps, in one dispatch. The rows have been scored by
// indexer_score, or the stage scores them itself: boxes (variants select_attend_boxes_*, score_boxes.glsl), or index keys
// of what a level above kept (select_attend_keys_*, score_keys.glsl). No workgroup waits for a list: each finds the cut
// by itself, from all scores of its kv head, keeps in shared memory the units that fall to it and attends to them. Where
// the rows are few (blocks) that costs less than a dispatch. The list is written too, for layers that borrow it. Sinks
// and everything from middle_end on are attended besides; a windowed head attends to what it sees.
// One workgroup handles: one of kMaxSplits ranges of the attended tokens of one kv head, all its query heads at once.
// Bindings: 0 state; 1 block table; 2 K pool; 3 V pool; 4 q f32, scaled; 5 partial states; 6 arrival counters;
//   7 output f32;
//   8 output as quantised activations; 9 lists u32 of this level; 10 controls; 11 lists of the level above; 12 lse f32 [n_heads];
//   13 tokens attended u32 (host visible), by layer and kv head; 14 scores f32 [n_heads, max_rows]; 15 (m, d) of ranges of rows
//   [n_kv_heads, kScoreSplits + 1, kGroup], sinks and window last; 16 policies;
//   17 sums of what left the windows, evicted.glsl; of boxes 18 minima and 19 maxima of units; of index keys 18 those,
//   index_keys.glsl, 19 index maps as in indexer_score and 21 mass that dropped rows hold, log, f32 [n_heads]; of both
//   20 arrivals u32 by kv head, and 15 is (m, d) of shares [n_kv_heads, kMaxSplits, kStates, kGroup], score_shares.glsl
// Needs: storage16, subgroup arithmetic, ballot and shuffle; the variants *_matrix f16 arithmetic and cooperative matrix.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#ifdef WINNOW_MATRICES
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#endif
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 64;
layout(constant_id = 1) const uint kHeadDim = 64;
layout(constant_id = 2) const uint kGroup = 3;
layout(constant_id = 3) const uint kKvHeads = 3;
layout(constant_id = 4) const uint kLanes = 8;
layout(constant_id = 5) const uint kSubgroups = 8;
layout(constant_id = 6) const uint kMaxSplits = 8;
layout(constant_id = 7) const uint kTokensInFlight = 2;
layout(constant_id = 8) const uint kBlockSize = 64;
layout(constant_id = 9) const uint kQuantize = 1;
layout(constant_id = 10) const uint kMinTokens = 64;  // tokens that make a split worth its merge
layout(constant_id = 11) const uint kUnit = 16;       // tokens of a row, at most kBlockSize
layout(constant_id = 12) const bool kSkipValues = false;
layout(constant_id = 13) const uint kScoreSplits = 8;
layout(constant_id = 14) const uint kParentUnit = 0;  // tokens of a row of the level above; 0 = no level above
layout(constant_id = 15) const uint kRule = 0;
layout(constant_id = 16) const uint kPool = 0;        // not WINNOW_POOL_EACH
layout(constant_id = 17) const uint kMaxRows = 16;    // stride of the scores, a multiple of 16
layout(constant_id = 18) const uint kBins = 512;      // of the ranking: 32 nats in all
layout(constant_id = 19) const uint kHeldRows = 8;    // that an invocation ranks at once, a multiple of 4
layout(constant_id = 20) const uint kMostChosen = 64; // units that fall to a workgroup
layout(constant_id = 21) const bool kEvicted = false;
#if defined(WINNOW_BOXES) || defined(WINNOW_KEYS)
#define WINNOW_SCORES
layout(constant_id = 22) const uint kOwnRows = 64;  // that a workgroup scores alone, at most; a multiple of 16
layout(constant_id = 23) const uint kPatience = 0;  // looks at the others' arrivals
#endif
#ifdef WINNOW_KEYS
layout(constant_id = 24) const uint kIndexDim = 16;
layout(constant_id = 25) const uint kIndexType = 0;  // of index keys
#endif

#define STATE_BINDING 0
#define TABLE_BINDING 1
#define KEY_BINDING 2
#define VALUE_BINDING 3
#define QUERY_BINDING 4
#define PARTIAL_BINDING 5
#define COUNTER_BINDING 6
#define OUTPUT_BINDING 7
#define ACT_OUT_BINDING 8
#define EVICTED_BINDING 17
#define BOX_LOW_BINDING 18
#define BOX_HIGH_BINDING 19
#define INDEX_KEY_BINDING 18
#define MAP_BINDING 19
#define ARRIVAL_BINDING 20
#include "shaders/common/interface.h"
#include "shaders/common/step_state.glsl"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/attend.glsl"
#include "shaders/common/activations.glsl"

layout(push_constant, scalar) uniform Push { SelectAttendPush push; };
layout(set = 0, binding = 9, scalar) restrict writeonly buffer Lists { uint lists[]; };
layout(set = 0, binding = 10, scalar) restrict buffer Controls { SelectControl controls[]; };
layout(set = 0, binding = 11, scalar) restrict readonly buffer Parents { uint parents[]; };
layout(set = 0, binding = 12, scalar) restrict writeonly buffer Lse { float lse[]; };
layout(set = 0, binding = 13, scalar) restrict writeonly buffer Counts { uint attended_counts[]; };
#ifdef WINNOW_SCORES
layout(set = 0, binding = 14, scalar) coherent buffer Scores { vec2 score_pairs[]; };
layout(set = 0, binding = 14, scalar) coherent buffer ScoreQuads { vec4 score_quads[]; };
layout(set = 0, binding = 15, scalar) coherent buffer Ranges { vec2 ranges[]; };
#else
layout(set = 0, binding = 14, scalar) restrict readonly buffer Scores { vec4 score_quads[]; };
layout(set = 0, binding = 15, scalar) restrict readonly buffer Ranges { vec2 ranges[]; };
#endif
layout(set = 0, binding = 16, scalar) restrict readonly buffer Policies { HeadPolicy policies[]; };
#ifdef WINNOW_KEYS
#define DROPPED_BINDING 21
layout(set = 0, binding = DROPPED_BINDING, scalar) restrict readonly buffer Dropped { float dropped[]; };
#endif

const uint kFinal = 1;
#define HELD_ROWS kHeldRows
#include "shaders/common/candidates.glsl"
#include "shaders/common/softmax_state.glsl"

// Units of this workgroup: the row of the first token, and which of the unit's tokens are attended, from | to << 16.
// Until place_units() the unit's number, kNoUnit where there is none.
const uint kNoUnit = 0xffffffffu;
shared uvec2 chosen[kMostChosen];
shared uint first_missing;  // tokens that the row lacks which the sinks reach into, where it is at the cut
shared uint first_kept;     // the same where it is kept

HeadTable table;
#ifdef WINNOW_BOXES
#include "shaders/common/score_boxes.glsl"
#endif
#ifdef WINNOW_KEYS
#include "shaders/common/score_keys.glsl"
#endif
vec4 fetched[kFetched];
uint fetched_first = 0xffffffffu;

// Whatever lies there beyond the scored rows: it does not count, and its load need not wait for how many there are.
void fetch_rows(uint first) {
    fetched_first = first;
#ifdef WINNOW_SCORES
    if (kMaxRows <= kOwnRows || scored_alone) {
        [[unroll]] for (uint i = 0; i < kFetched; ++i) {
            const uint pair = (i % kGroup * kOwnRows + min(first, kOwnRows - kHeld)) / 2 + i / kGroup * 2;
            fetched[i] = vec4(own_pairs[pair], own_pairs[pair + 1]);
        }
        return;
    }
#endif
    fetch_scores(first, kMaxRows, fetched);
}
void load_rows(uint first, uint end, float threshold) {
    if (fetched_first != first) fetch_rows(first);
    hold_scores(fetched, first, end, threshold);
}

// What is attended, in whole units one after the other: sinks, the list's, and everything from `recent` on, which ends
// with the newest token. Of a unit that two of these share each takes its own tokens.
struct Attended {
    uint n_first, recent;         // tokens
    uint n_sink_units, n_list;    // units; those of the list at most
    uint n_items, n_active;       // places of tokens; splits
};
Attended attended_range(uint n_first, uint recent, uint n_list) {
    const uint n_sink_units = (n_first + kUnit - 1) / kUnit;
    const uint n_items = (n_sink_units + n_list) * kUnit + position + 1 - recent / kUnit * kUnit;
    Attended a = Attended(n_first, recent, n_sink_units, n_list, n_items, 0);
    a.n_active = clamp(a.n_items / kMinTokens, 1, kMaxSplits);
    return a;
}
uint split_begin(Attended a, uint split) { return split * a.n_items / a.n_active; }

#ifndef WINNOW_SCORES
// Log of each head's denominator, and the share that sinks and window have of it.
void merge_ranges() {
    for (uint g = gl_SubgroupID; g < kGroup; g += kSubgroups) {
        const uint at = kv_head * (kScoreSplits + 1) * kGroup + g;
        const vec2 sure = ranges[at + kScoreSplits * kGroup];
        const uint lane = gl_SubgroupInvocationID;
        vec2 total = lane < kScoreSplits ? ranges[at + lane * kGroup] : vec2(kEmpty, 0.0);
        if (kScoreSplits > kSubgroupLanes)
            for (uint s = lane + kSubgroupLanes; s < kScoreSplits; s += kSubgroupLanes) merge_state(total, ranges[at + s * kGroup]);
        const float largest = max(subgroupMax(total.x), sure.x);
        total = vec2(largest, subgroupAdd(total.y * exp(total.x - largest)) + sure.y * exp(sure.x - largest));
        if (subgroupElect()) {
            shared_lse[g] = total.x + log(max(total.y, 1.0e-30));
            select_before_mass[g] = uint(share_of(sure, shared_lse[g]) * kMassUnit);
        }
    }
}
#endif

Attended a;
uint first_unit;  // of this workgroup, in that order

// Where the units lie, all at once. A unit without tokens has row 0, which is read and does not count.
void place_units() {
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < kMostChosen; i += kGroupSize) {
        const uint listed = first_unit + i - a.n_sink_units;  // of a sink's unit: beyond everything
        uint unit = chosen[i].x;
        uint from = a.n_first, to = a.recent;
        if (first_unit + i < a.n_sink_units) {
            unit = first_unit + i;
            from = 0;
            to = a.n_first;
        } else if (listed >= a.n_list) {
            unit = a.recent / kUnit + listed - a.n_list;
            from = a.recent;
            to = position + 1;
        }
        const uint token = unit * kUnit;
        if (unit == kNoUnit || token > position) chosen[i] = uvec2(0);
        else
            chosen[i] = uvec2(
                physical_block(table, token / kBlockSize) * kBlockSize + token % kBlockSize,
                clamp(from, token, token + kUnit) - token | (clamp(to, token, token + kUnit) - token) << 16);
    }
    barrier();
}

// Whether the row that sinks reach into is at the cut, or kept.
void find_first(uint below, uint at, uint room) {
    if (kUnit == 1) return;
    [[unroll]] for (uint k = 0; k < (kParentUnit == 0 ? 1 : kHeld); ++k) {  // without a level above it is row 0
        if (held_tokens[k] == 0 || held_tokens[k] == kUnit) continue;
        if ((at >> k & 1) != 0) first_missing = kUnit - held_tokens[k];
        if ((below >> k & 1) != 0 || ((at >> k & 1) != 0 && room != 0)) first_kept = kUnit - held_tokens[k];
    }
}

// The cut, and the units of this workgroup into `chosen`. Returns how many tokens of the list are attended, exactly.
uint choose(uint split, uint n_rows) {
    const HeadPolicy rule = rule_of_head();
    if (gl_LocalInvocationIndex == 0) {
        select_before_count[0] = 0;
        first_missing = first_kept = 0;
    }
    uint coarse[kRankings];
    coarse[0] = kBins;
    count_bins(0, coarse, 0, n_rows, rule.threshold);
    find_cuts(0, coarse, rule);

    // Rows in bins before the cut are kept; of those at the cut as many as the budget has room for, the lowest ids
    // first.
    const uint bin = select_cut[0];
    const uint room = rule.budget_max - min(rule.budget_max, select_before_count[0]);
    const uint n_at = bin < kBins ? min(select_count[bin], min(room, 0x7fffffffu - kUnit) + kUnit - 1) : 0;
    const uint most_listed = (select_before_count[0] + n_at) / kUnit + 2;
    const uint recent = min(middle_end, position + 1);
    const uint list_at = push.list_offset + kv_head * push.list_stride;
    uint before_cut = 0, at_cut = 0;  // rows of the tiles so far
    uint most_at = 0, place = 0;
    uint base = 0;
    do {
        const uint first = base + gl_LocalInvocationIndex * kHeld;
        if (!kOneTile && n_rows > kTile) load_rows(first, n_rows, rule.threshold);
        uint below = 0, at = 0;  // a bit for each row; a row outside is in no bin
        [[unroll]] for (uint k = 0; k < kHeld; ++k) {
            const uint own_bin = held_rank[k] / kRanksPerBin;
            below |= (own_bin < bin ? 1 : 0) << k;
            at |= (own_bin == bin ? 1 : 0) << k;
        }
        find_first(below, at, room);
        // Both sums in one scan: a tile has less than 2^16 rows.
        uint all;
        const uint before = scan_before(bitCount(below) | bitCount(at) << 16, place, all);
        place ^= 1;
        if (base == 0) {
            most_at = room == 0 ? 0 : (min(room, 0x7fffffffu - kUnit) + first_missing - 1) / kUnit + 1;
            const uint n_list = kOneTile ? (all & 0xffff) + min(most_at, all >> 16) : most_listed;
            a = attended_range(min(sinks, recent), recent, n_list);
            first_unit = split_begin(a, split) / kUnit;
        }
        uint at_before = at_cut + (before >> 16);
        uint entry = before_cut + (before & 0xffff) + min(most_at, at_before);
        for (uint rows = below | at; rows != 0; rows &= rows - 1) {
            const uint k = findLSB(rows);
            if ((at >> k & 1) != 0 && at_before++ >= most_at) continue;
            const uint own = a.n_sink_units + entry - first_unit;
            if (split < a.n_active && own < kMostChosen) {
                const uint unit = row_unit(first + k);
                chosen[own].x = unit;
                if (entry < push.list_stride) lists[list_at + entry] = unit;  // never into the next head's
            }
            ++entry;
        }
        before_cut += all & 0xffff;
        at_cut += all >> 16;
        base += kTile;
    } while (!kOneTile && base < n_rows);
    const uint n_list = before_cut + min(most_at, at_cut);
    const uint n_tokens = n_list * kUnit - first_kept;
    if (split == 0 && gl_LocalInvocationIndex == 0)
        controls[push.control + kv_head] = SelectControl(
            min(n_list, push.list_stride), min(n_tokens, push.list_stride * kUnit), middle_end, position + 1);
    return n_tokens;
}

float act_value(uint e) { return merge_output[e / 4][e % 4]; }
float act_square(uint e) { return 0.0; }

void attend_place(uint place, uint end, out uint row, out bool visible) {
    const uint item = min(place, end - 1);
    const uvec2 unit = chosen[item / kUnit - first_unit];
    row = unit.x + item % kUnit;
    visible = place < end && item % kUnit >= (unit.y & 0xffff) && item % kUnit < unit.y >> 16;
}

void main() {
    const uint split = gl_WorkGroupID.x;
    kv_head = gl_WorkGroupID.y;
    // All these loads are under way together.
    position = state.position;
    const uint stopped = state.stopped;
    table = head_table(push.table_offset, push.table_stride, kv_head);
#ifdef WINNOW_SCORES
    attend_init(kv_head);
    fetch_first_rows(split);
#ifdef WINNOW_KEYS
    stage_index_query();
    barrier();
#endif
    put_queries();
#else
    fetch_rows(gl_LocalInvocationIndex * kHeld);
    attend_init(kv_head);
    merge_ranges();
#endif
    if (stopped != 0) return;

    for (uint i = gl_LocalInvocationIndex; i < kMostChosen; i += kGroupSize) chosen[i].x = kNoUnit;
    uint n_tokens = 0;
    if (table.window != 0) {
        const uint recent = position + 1 > table.window ? position + 1 - table.window : 0;
        a = attended_range(min(table.sink_tokens, recent), recent, 0);
        first_unit = split_begin(a, split) / kUnit;
    } else {
        find_candidates();
        const uint n_rows = n_level_rows();
#ifdef WINNOW_SCORES
        score_own_rows(split, n_rows);
        if (kMaxRows > kOwnRows && !scored_alone) fetch_rows(gl_LocalInvocationIndex * kHeld);
#endif
        n_tokens = choose(split, n_rows);
    }
    if (split >= a.n_active) {
#ifdef WINNOW_SCORES
        leave_scores();
#endif
        return;
    }
    place_units();
    attend_evicted(split, push.evicted + kv_head, push.evicted == WINNOW_NO_SUMS ? 0 : n_evicted(table, position));
    const uint n = a.n_first + n_tokens + position + 1 - a.recent;
    const uint begin = split_begin(a, split);
    const uint end = split_begin(a, split + 1);
    attend_range(begin, end, min(push.skip / float(n), 1.0));  // the maximum itself is never skipped
#ifdef WINNOW_SCORES
    leave_scores();
#endif
    attend_merge_workgroup();
    if (!attend_finish(kv_head, split, a.n_active, push.counter + kv_head)) return;

    if (gl_LocalInvocationIndex == 0)
        attended_counts[position % WINNOW_TOKEN_RING * push.count_stride + push.first_count + kv_head] = n;
    if (gl_LocalInvocationIndex < kGroup)
        lse[kv_head * kGroup + gl_LocalInvocationIndex] = attend_lse(gl_LocalInvocationIndex);
    if (kQuantize != 0) {
        const uint n_blocks = kGroup * kHeadDim / 32;
        store_act(kKvHeads * n_blocks, kv_head * n_blocks, n_blocks);
    }
}
