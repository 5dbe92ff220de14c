#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: one level of selection for a layer. Scores rows (tokens, blocks or superblocks; all of them or the children
// of the rows that the level above kept), then the last workgroup of each kv head applies the budget rule and writes
// the kept rows as a sorted list, or that is left to select_rows or select_attend (kEnding). Quest's box bound, block
// means (HISA), low-dimensional index keys (RTPurbo, FASA) or their codes, and exact keys are variants of the row;
// top-k, attention top-p (Twilight) and a threshold are variants of the rule.
// One workgroup handles: its slices of the rows of one kv head, in turn with the others; the workgroup kSplits handles
// sinks and window, which are always attended and count towards the mass, and appends the newest token's index key and
// its code.
// Bindings: 0 state; 1 block table; 2 rows; 3 second rows (box: max); 4 q f32 [n_heads, head_dim]; 5 index maps f32
//   [A: index_dim, head_dim][B: index_dim, head_dim] per kv head; 6 K pool; 7 index keys [n_physical, block, index_dim], index_keys.glsl;
//   8 sums of index keys f32 [n_physical * block / unit, index_dim]; 9 lists u32 of this level; 10 lists of the level above; 11 scores f32
//   [n_heads, max_rows]; 12 partial (m, d) [n_kv_heads, kSplits + 1, kGroup]; 13 counters; 14 controls; 15 policies;
//   16 last selecting queries f32; 17 mass that dropped rows hold, log, f32 [n_heads]; 18 codes of index keys and 19 their
//   tables, index_codes.glsl
// Needs: storage16, subgroup arithmetic, ballot and shuffle.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

#include "shaders/common/interface.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint kGroupSize = 32;
layout(constant_id = 1) const uint kHeadDim = 64;
layout(constant_id = 2) const uint kGroup = 3;
layout(constant_id = 3) const uint kKvHeads = 3;
layout(constant_id = 4) const uint kSubgroups = 4;
layout(constant_id = 5) const uint kSplits = 8;
layout(constant_id = 6) const uint kBlockSize = 64;
layout(constant_id = 7) const uint kScorer = 0;
layout(constant_id = 8) const uint kUnit = 1;         // tokens of a row
layout(constant_id = 9) const uint kParentUnit = 0;   // tokens of a row of the level above; 0 = no level above
layout(constant_id = 10) const uint kRule = 1;
layout(constant_id = 11) const uint kPool = 0;
layout(constant_id = 12) const uint kFinal = 1;       // the last level; its list is attended
layout(constant_id = 13) const uint kIndexDim = 16;
layout(constant_id = 14) const uint kLanes = 8;       // lanes per row
layout(constant_id = 15) const uint kMaxRows = 1;     // stride of the scores, a multiple of 16
layout(constant_id = 16) const uint kAppendIndex = 0; // this dispatch appends the newest index key
layout(constant_id = 17) const uint kAppendOnly = 0;  // and does nothing else (a dense step of a sparse session)
layout(constant_id = 18) const uint kIndexUnit = 64;  // tokens of a row of the index sums; 0 = there are none
layout(constant_id = 19) const uint kIndexType = 0;   // of index keys
layout(constant_id = 20) const uint kEnding = WINNOW_SCORE_LIST;
layout(constant_id = 21) const uint kRowsInFlight = 2; // rows that a slot loads at once
layout(constant_id = 22) const uint kCodes = 0;        // 1 = index keys have codes

#define STATE_BINDING 0
#define TABLE_BINDING 1
#define MAP_BINDING 5
#include "shaders/common/step_state.glsl"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/words.glsl"
#include "shaders/common/index_keys.glsl"
#include "shaders/common/index_codes.glsl"

layout(push_constant, scalar) uniform Push { SelectPush push; };
layout(set = 0, binding = 2, scalar) restrict readonly buffer Rows { uvec4 rows[]; };
layout(set = 0, binding = 3, scalar) restrict readonly buffer RowsMax { uvec4 rows_max[]; };
layout(set = 0, binding = 4, scalar) restrict readonly buffer Query { float query[]; };
layout(set = 0, binding = 4, scalar) restrict readonly buffer QueryQuads { vec4 query_quads[]; };
layout(set = 0, binding = 5, scalar) restrict readonly buffer Maps { float maps[]; };
READ_WORDS(key_pool, 6, readonly)
INDEX_PLANE(7, coherent)
layout(set = 0, binding = 8, scalar) restrict buffer IndexSums { float index_sums[]; };
layout(set = 0, binding = 9, scalar) coherent buffer Lists { uint lists[]; };
layout(set = 0, binding = 10, scalar) restrict readonly buffer Parents { uint parents[]; };
layout(set = 0, binding = 11, scalar) coherent buffer Scores { float scores[]; };
layout(set = 0, binding = 11, scalar) coherent buffer ScoreQuads { vec4 score_quads[]; };
layout(set = 0, binding = 12, scalar) coherent buffer Partials { vec2 partials[]; };
layout(set = 0, binding = 13, scalar) coherent buffer Counters { uint counters[]; };
layout(set = 0, binding = 14, scalar) coherent buffer Controls { SelectControl controls[]; };
layout(set = 0, binding = 15, scalar) restrict readonly buffer Policies { HeadPolicy policies[]; };
layout(set = 0, binding = 16, scalar) coherent buffer LastQueries { float last_queries[]; };
layout(set = 0, binding = 17, scalar) coherent buffer Dropped { float dropped[]; };
CODE_PLANE(18)
CODE_TABLES(19)

const uint kBins = 256;
#include "shaders/common/candidates.glsl"

const bool kCoded = kScorer == WINNOW_SCORE_CODES;
const bool kIndexed = kScorer == WINNOW_SCORE_LOWDIM || kScorer == WINNOW_SCORE_LOWDIM_MEAN || kCoded;
const uint kDim = kIndexed ? kIndexDim : kHeadDim;
const uint kUnits = kDim / 8;
const uint kUnitsPerLane = (kUnits + kLanes - 1) / kLanes;
const uint kKeyUnits = kHeadDim / 8;
const uint kSlots = kGroupSize / kLanes;
const uint kQueryUnits = kCoded ? 0 : kGroup * kUnitsPerLane;  // that a lane holds: of codes shared memory does
const uint kInFlight = kQueryUnits > 8 ? 1 : kRowsInFlight;    // bounded by registers
const float kEmpty = -3.0e38;
#include "shaders/common/softmax_state.glsl"
const uint kValues = kInFlight * kGroup;
#include "shaders/common/share_out.glsl"
#include "shaders/common/index_query.glsl"

shared float shared_query[kIndexed ? kGroup * kDim : 1];
shared vec2 shared_states[kSubgroups * kGroup];
shared uint arrived;
shared float shared_index_key[kIndexDim];

vec4 q[kGroup * 2 * kUnitsPerLane];
HeadTable table;

uint slot_index() { return gl_LocalInvocationIndex / kLanes; }
// Of codes by dimension: what one code needs lies together.
uint query_at(uint g, uint r) { return kCoded ? r * kGroup + g : g * kDim + r; }

void unpack_halves(uvec4 w, out vec4 a, out vec4 b) {
    a = vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
    b = vec4(unpackHalf2x16(w.z), unpackHalf2x16(w.w));
}

void load_summary_unit(uint which, uint at, out vec4 a, out vec4 b) {
#if KV_TYPE != WINNOW_KV_F32
    unpack_halves(which == 0 ? rows[at] : rows_max[at], a, b);
#else
    a = uintBitsToFloat(which == 0 ? rows[2 * at] : rows_max[2 * at]);
    b = uintBitsToFloat(which == 0 ? rows[2 * at + 1] : rows_max[2 * at + 1]);
#endif
}

vec4 query_quad(uint at) { return query_quads[at]; }
void put_index_query(uint g, uint r, float value) { shared_query[query_at(g, r)] = value; }

// From there, or the queries themselves, into registers.
void load_query() {
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = share_lane() + u * kLanes;
            vec4 a = vec4(0.0), b = vec4(0.0);
            if (unit < kUnits) {
                if (kIndexed) {
                    for (uint e = 0; e < 4; ++e) {
                        a[e] = shared_query[query_at(g, unit * 8 + e)];
                        b[e] = shared_query[query_at(g, unit * 8 + 4 + e)];
                    }
                } else {
                    const uint at = ((kv_head * kGroup + g) * kHeadDim + unit * 8) / 4;
                    a = query_quads[at];
                    b = query_quads[at + 1];
                }
            }
            q[(g * kUnitsPerLane + u) * 2] = a;
            q[(g * kUnitsPerLane + u) * 2 + 1] = b;
        }
    }
}

uint code_tables_at() { return push.codes + kv_head * kIndexDim * WINNOW_CODE_WORDS; }

float largest_appended = 0.0;
float appended(uint r) { return shared_index_key[r]; }
float stored_key(uint r) { return index_stored(shared_index_key[r], largest_appended); }

// Index key of the newest token and its place in the block's sum: one subgroup per index dimension.
void append_index_key() {
    const uint row = physical_block(table, position / kBlockSize) * kBlockSize + position % kBlockSize;
    for (uint r = gl_SubgroupID; r < kIndexDim; r += kSubgroups) {
        const uint map_at = push.maps + ((kv_head * 2 + 1) * kIndexDim + r) * kHeadDim;
        float sum = 0.0;
        for (uint c = gl_SubgroupInvocationID; c < kHeadDim; c += gl_SubgroupSize)
            sum += maps[map_at + c] * KV_VALUE(key_pool, row, c);
        sum = subgroupAdd(sum);
        if (subgroupElect()) shared_index_key[r] = sum;
    }
    barrier();
    INDEX_LARGEST(largest, appended)
    INDEX_STORE_ROW(row, appended, largest, gl_LocalInvocationIndex, kGroupSize)
    if (kCodes != 0) {
        largest_appended = largest;
        CODE_STORE_ROW(row, stored_key, code_tables_at(), gl_LocalInvocationIndex, kGroupSize)
    }
    for (uint r = gl_LocalInvocationIndex; kIndexUnit != 0 && r < kIndexDim; r += kGroupSize) {
        const uint at = (row / max(kIndexUnit, 1u)) * kIndexDim + r;
        index_sums[at] = (position % kIndexUnit == 0 ? 0.0 : index_sums[at]) + index_stored(appended(r), largest);
    }
    memoryBarrierBuffer();
    barrier();
}

// A row that a slot scores: a token's key or index key, or the summary of a unit of tokens.
struct Row {
    uint row;
    float inverse_count;  // of the tokens in the summary
    bool inside;
};

Row token_row(uint token, bool inside) {
    if (!inside) token = 0;  // a child beyond the cache has no place in the block table
    const uint row = physical_block(table, token / kBlockSize) * kBlockSize + token % kBlockSize;
    return Row(row, 1.0, inside);
}

Row unit_row(uint unit_id, bool inside) {
    if (!inside) unit_id = 0;
    uint row;
    if (kUnit > kBlockSize) row = push.super_first + kv_head * push.super_stride + unit_id;
    else
        row = physical_block(table, unit_id * kUnit / kBlockSize) * (kBlockSize / kUnit) +
              unit_id % (kBlockSize / kUnit);
    return Row(row, 1.0 / float(min(kUnit, position + 1 - unit_id * kUnit)), inside);
}

// Scores of the query heads against the slot's kInFlight rows at once, so that their loads overlap.
Row slot_rows[kInFlight];
float slot_scores[kValues];  // kOwned of them in the end
void score_rows(bool tokens) {
    [[unroll]] for (uint i = 0; i < kValues; ++i) slot_scores[i] = 0.0;
    [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
        const uint unit = share_lane() + u * kLanes;
        vec4 a[kInFlight], b[kInFlight], c[kInFlight], d[kInFlight];
        [[unroll]] for (uint t = 0; t < kInFlight; ++t) {
            a[t] = b[t] = c[t] = d[t] = vec4(0.0);
            if (!slot_rows[t].inside || unit >= kUnits) continue;
            const uint at = slot_rows[t].row * kUnits + unit;
            if (tokens) {
                if (kIndexed) INDEX_LOAD(slot_rows[t].row, unit, a[t], b[t])
                else KV_LOAD(key_pool, slot_rows[t].row, unit, a[t], b[t])
            } else if (kScorer == WINNOW_SCORE_BOX) {
                load_summary_unit(0, at, a[t], b[t]);
                load_summary_unit(1, at, c[t], d[t]);
            } else {
                a[t] = uintBitsToFloat(rows[2 * at]) * slot_rows[t].inverse_count;
                b[t] = uintBitsToFloat(rows[2 * at + 1]) * slot_rows[t].inverse_count;
            }
        }
        [[unroll]] for (uint t = 0; t < kInFlight; ++t) {
            [[unroll]] for (uint g = 0; g < kGroup; ++g) {
                const vec4 x = q[(g * kUnitsPerLane + u) * 2];
                const vec4 y = q[(g * kUnitsPerLane + u) * 2 + 1];
                if (kScorer == WINNOW_SCORE_BOX && !tokens)
                    slot_scores[t * kGroup + g] += dot(x, mix(a[t], c[t], greaterThan(x, vec4(0.0)))) +
                                                   dot(y, mix(b[t], d[t], greaterThan(y, vec4(0.0))));
                else
                    slot_scores[t * kGroup + g] += dot(x, a[t]) + dot(y, b[t]);
            }
        }
    }
    share_out(slot_scores);
}

#include "shaders/common/score_codes.glsl"

void load_rows(uint first, uint end, float threshold) { hold_scored_rows(first, end, threshold); }

// Block table entries of the rows that come next, so that their loads wait neither for the entry nor, the first time,
// for the position. Only of rows that are known without a list. A windowed head does not come here, so no ring has to
// be looked through.
const bool kBlocksAhead = kParentUnit == 0 && kUnit <= kBlockSize;
uint blocks_ahead[kInFlight];
void fetch_blocks(uint first) {
    [[unroll]] for (uint t = 0; kBlocksAhead && t < kInFlight; ++t) {
        const uint unit_id = push.sink_tokens / kUnit + first + t * kSlots + slot_index();
        const uint block = min(unit_id * kUnit / kBlockSize, push.table_stride - WINNOW_TABLE_HEADER - 1);
        blocks_ahead[t] = block_table[push.table_offset + kv_head * push.table_stride + WINNOW_TABLE_HEADER + block];
    }
}
Row next_row(uint t, uint unit_id, bool inside) {
    if (!kBlocksAhead) return kUnit == 1 ? token_row(unit_id, inside) : unit_row(unit_id, inside);
    const uint units = kBlockSize / min(kUnit, kBlockSize);
    const uint n_tokens = min(kUnit, position + 1 - min(unit_id * kUnit, position));
    return Row(blocks_ahead[t] * units + unit_id % units, 1.0 / float(n_tokens), inside);
}

// (m, d) of the values that this lane owns over the rows of its slot: first, first + stride .. before end. `always`:
// sinks and window in place of rows.
vec2 own_md[kOwned];
void score_range(uint first, uint end, uint stride, bool always) {
    for (; first < end; first += stride) {
        uint n[kInFlight];
        [[unroll]] for (uint t = 0; t < kInFlight; ++t) {
            const uint i = first + t * kSlots + slot_index();
            const bool inside = i < end;
            const uint row = min(i, end - 1);
            n[t] = inside ? 1 : 0;
            if (always) {
                slot_rows[t] = token_row(row < sinks ? row : middle_end + row - sinks, inside);
            } else {
                const uint unit_id = row_unit(row);
                if (inside) n[t] = unit_tokens(unit_id);
                slot_rows[t] = next_row(t, unit_id, n[t] > 0);
            }
        }
        if (!always) fetch_blocks(first + stride);
        if (kCoded && always) score_index_keys();
        else if (kCoded) score_codes();
        else score_rows(always || kUnit == 1);
        [[unroll]] for (uint g = 0; kCoded && g < kGroup; ++g) {  // a row is one invocation's
            float largest = kEmpty, sum = 0.0;
            [[unroll]] for (uint t = 0; t < kInFlight; ++t)
                if (n[t] > 0) largest = max(largest, slot_scores[t * kGroup + g]);
            [[unroll]] for (uint t = 0; t < kInFlight; ++t) {
                const uint i = first + t * kSlots + slot_index();
                if (!always && i < end) scores[(kv_head * kGroup + g) * kMaxRows + i] = slot_scores[t * kGroup + g];
                if (n[t] > 0) sum += float(n[t]) * exp(slot_scores[t * kGroup + g] - largest);
            }
            merge_state(own_md[g], vec2(largest, sum));
        }
        [[unroll]] for (uint j = 0; !kCoded && j < kOwned; ++j) {
            const uint value = own_value(j);
            uint t = 0;
            [[unroll]] for (uint other = 1; other < kInFlight; ++other)
                if (value / kGroup == other) t = other;
            const uint i = first + t * kSlots + slot_index();
            if (!always && i < end && owner_of(value).x == share_lane())
                scores[(kv_head * kGroup + value % kGroup) * kMaxRows + i] = slot_scores[j];
            uint n_own = n[0];
            [[unroll]] for (uint other = 1; other < kInFlight; ++other)
                if (t == other) n_own = n[other];
            if (n_own > 0) merge_state(own_md[j], vec2(slot_scores[j], float(n_own)));
        }
    }
}

// Of the whole workgroup, into partials; one subgroup per head.
void merge_range(uint place) {
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        vec2 md = vec2(kEmpty, 0.0);
        [[unroll]] for (uint t = 0; t < (kCoded ? 1 : kInFlight); ++t) {
            const uvec2 owner = owner_of(t * kGroup + g);
            merge_state(md, subgroupShuffle(own_md[owner.y], gl_SubgroupInvocationID - share_lane() + owner.x));
        }
        for (uint d = kLanes; d < kSubgroupLanes; d <<= 1) merge_state(md, subgroupShuffleXor(md, d));
        if (gl_SubgroupInvocationID == 0) shared_states[gl_SubgroupID * kGroup + g] = md;
    }
    barrier();
    for (uint g = gl_SubgroupID; g < kGroup; g += kSubgroups) {
        vec2 total = vec2(kEmpty, 0.0);
        for (uint s = 0; s < kSubgroups; s += kSubgroupLanes)
            if (s + gl_SubgroupInvocationID < kSubgroups)
                merge_state(total, shared_states[(s + gl_SubgroupInvocationID) * kGroup + g]);
        const float largest = subgroupMax(total.x);
        total = vec2(largest, subgroupAdd(total.y * exp(total.x - largest)));
        if (kEnding == WINNOW_SCORE_RANGES && kParentUnit != 0 && place == 0)
            merge_state(total, vec2(dropped[kv_head * kGroup + g], 1.0));
        if (subgroupElect()) partials[(kv_head * (kSplits + 1) + place) * kGroup + g] = total;
    }
}

// Whether the list that exists still serves: made less than `refresh` tokens ago and the query points the same way.
bool list_still_serves(SelectControl c) {
    if (c.n_selected_at == 0 || c.n_selected_at > position + 1) return false;
    const bool in_time = push.refresh > 1 && position + 1 - c.n_selected_at < push.refresh;
    if (!in_time || push.cosine > 1.0) return in_time;
    float dots = 0.0, own = 0.0, last = 0.0;
    const uint at = kv_head * kGroup * kHeadDim;
    for (uint i = gl_SubgroupInvocationID; i < kGroup * kHeadDim; i += gl_SubgroupSize) {
        const float a = query[at + i];
        const float b = last_queries[push.last_query + at + i];
        dots += a * b;
        own += a * a;
        last += b * b;
    }
    return subgroupAdd(dots) >= push.cosine * sqrt(subgroupAdd(own) * subgroupAdd(last));
}

// Where each ranking is cut: rows with a smaller rank are kept; those at the cut while they fit the budget, lowest
// first; a cut that the rule never reached keeps everything up to it.
struct Cut {
    uint rank;
    bool open;  // keeps all of the rank as well
    uint room;  // tokens that still fit at the cut
};

// Rows that the rule keeps, in ascending order, as units.
void write_list(uint n_rows, HeadPolicy policy, uint coarse[kRankings], uint fine[kRankings]) {
    Cut cuts[kRankings];
    for (uint r = 0; r < kRankings; ++r) {
        cuts[r].rank = coarse[r] >= kBins ? 65536u : coarse[r] * kRanksPerBin + min(fine[r], kRanksPerBin - 1);
        cuts[r].open = coarse[r] >= kBins || fine[r] >= kBins;
        cuts[r].room = policy.budget_max - min(policy.budget_max, select_before_count[r]);
    }
    const uint list_at = push.list_offset + kv_head * push.list_stride;
    uint written = 0;
    uint n_tokens = 0;  // of this invocation's rows
    uint place = 0;
    for (uint base = 0; base < n_rows; base += kTile) {
        const uint first = base + gl_LocalInvocationIndex * kHeld;
        if (n_rows > kTile) load_rows(first, n_rows, policy.threshold);
        bool keep[kHeld];
        uint counted[kHeld];  // bits: rankings whose mass has the row, before their cut
        [[unroll]] for (uint k = 0; k < kHeld; ++k) {
            keep[k] = false;
            counted[k] = 0;
        }
        for (uint r = 0; r < kRankings; ++r) {
            uint at_cut[kHeld];  // tokens
            uint own = 0;
            [[unroll]] for (uint k = 0; k < kHeld; ++k) {
                const uint rank = held_rank[k * kRankings + r];
                const bool before = rank != kOutside && (rank < cuts[r].rank || (cuts[r].open && rank <= cuts[r].rank));
                at_cut[k] = rank == cuts[r].rank && !cuts[r].open ? held_tokens[k] : 0;
                own += at_cut[k];
                keep[k] = keep[k] || before;
                if (before) counted[k] |= 1u << r;
            }
            uint cut_total;
            uint cut_before = scan_before(own, place, cut_total);
            place ^= 1;
            [[unroll]] for (uint k = 0; k < kHeld; ++k) {
                keep[k] = keep[k] || (at_cut[k] != 0 && cut_before < cuts[r].room);
                cut_before += at_cut[k];
            }
            cuts[r].room -= min(cuts[r].room, cut_total);
        }
        uint size = 0;
        [[unroll]] for (uint k = 0; k < kHeld; ++k) size += keep[k] ? 1 : 0;
        uint tile;
        uint at = list_at + written + scan_before(size, place, tile);
        place ^= 1;
        [[unroll]] for (uint k = 0; k < kHeld; ++k) {
            if (!keep[k]) continue;
            if (at - list_at < push.list_stride) lists[at] = row_unit(first + k);  // never into the next head's
            ++at;
            n_tokens += held_tokens[k];
            if (kFinal != 0) continue;
            // At the cut, or kept for another head's sake: not yet in the mass that this head keeps.
            for (uint g = 0; g < kGroup; ++g)
                if ((counted[k] >> (kRankings == 1 ? 0 : g) & 1) == 0)
                    atomicAdd(select_before_mass[g], mass_of(held_weight[k * kGroup + g], held_tokens[k]));
        }
        written += tile;
    }
    uint all_tokens;
    scan_before(n_tokens, place, all_tokens);
    if (gl_LocalInvocationIndex == 0) {
        controls[push.control + kv_head].n_list = min(written, push.list_stride);
        controls[push.control + kv_head].n_tokens = min(all_tokens, push.list_stride * kUnit);
        controls[push.control + kv_head].middle_end = middle_end;
        controls[push.control + kv_head].n_selected_at = position + 1;
    }
}

void main() {
    kv_head = gl_WorkGroupID.y;
    position = state.position;
    const uint stopped = state.stopped;
    table = head_table(push.table_offset, push.table_stride, kv_head);
    // Beside the state and the table, not after them.
    fetch_blocks(gl_WorkGroupID.x * kInFlight * kSlots);
    if (kAppendOnly == 0 && kIndexed) {
        stage_index_query();
        if (kCoded) stage_codes();
        barrier();
    }
    const bool always = gl_WorkGroupID.x == kSplits;
    if (kAppendOnly == 0 && !kCoded) load_query();
    if (stopped != 0 || table.window != 0) return;  // a windowed head selects nothing
    if (kAppendIndex != 0 && always) append_index_key();
    if (kAppendOnly != 0) return;
    if (kEnding != WINNOW_SCORE_RANGES && list_still_serves(controls[push.final_control + kv_head])) return;

    find_candidates();
    const uint n_rows = n_level_rows();
    const uint n_active = clamp(n_rows / (kInFlight * kSlots), 1, kSplits);
    if (!always && gl_WorkGroupID.x >= n_active) {
        if (kEnding == WINNOW_SCORE_RANGES && gl_LocalInvocationIndex < kGroup)
            partials[(kv_head * (kSplits + 1) + gl_WorkGroupID.x) * kGroup + gl_LocalInvocationIndex] =
                vec2(kEmpty, 0.0);
        return;
    }
    const uint n_recent = position + 1 > middle_end ? position + 1 - middle_end : 0;
    [[unroll]] for (uint j = 0; j < kOwned; ++j) own_md[j] = vec2(kEmpty, 0.0);
    // Rows of the workgroups alternate, so that each knows its first ones at once. Two calls: with `always` known when
    // it is compiled the stage takes 9.4 us, with one call for both 10.6 (H200, 2,046 boxes).
    if (always) score_range(0, min(sinks, position + 1) + n_recent, kInFlight * kSlots, true);
    else score_range(gl_WorkGroupID.x * kInFlight * kSlots, n_rows, n_active * kInFlight * kSlots, false);
    merge_range(gl_WorkGroupID.x);
    if (kEnding == WINNOW_SCORE_RANGES) return;
    memoryBarrierBuffer();
    barrier();
    if (gl_LocalInvocationIndex == 0) {
        arrived = atomicAdd(counters[push.counter + kv_head], 1);
        if (arrived == n_active) counters[push.counter + kv_head] = 0;
    }
    barrier();
    if (arrived != n_active) return;
    memoryBarrierBuffer();

    // The last workgroup: denominators, then the rule, then the list.
    for (uint g = gl_SubgroupID; g < kGroup; g += kSubgroups) {
        const uint at = kv_head * (kSplits + 1) * kGroup + g;
        const vec2 sure = partials[at + kSplits * kGroup];
        vec2 total = vec2(kEmpty, 0.0);
        for (uint s = gl_SubgroupInvocationID; s < n_active; s += gl_SubgroupSize)
            merge_state(total, partials[at + s * kGroup]);
        for (uint d = 1; d < gl_SubgroupSize; d <<= 1) merge_state(total, subgroupShuffleXor(total, d));
        merge_state(total, sure);
        if (kParentUnit != 0) merge_state(total, vec2(dropped[kv_head * kGroup + g], 1.0));
        if (subgroupElect()) {
            const float lse = total.x + log(max(total.y, 1.0e-30));
            const float sure_share = share_of(sure, lse);
            shared_lse[g] = lse;
            select_before_mass[g] = uint(sure_share * kMassUnit);
            if (kEnding == WINNOW_SCORE_DENOMINATORS) partials[at] = vec2(lse, sure_share);
        }
    }
    if (kFinal != 0)
        for (uint i = gl_LocalInvocationIndex; i < kGroup * kHeadDim; i += kGroupSize)
            last_queries[push.last_query + kv_head * kGroup * kHeadDim + i] = query[kv_head * kGroup * kHeadDim + i];
    if (kEnding == WINNOW_SCORE_DENOMINATORS) {
        if (gl_LocalInvocationIndex == 0) controls[push.control + kv_head].n_list = WINNOW_LIST_PENDING;
        return;
    }
    if (gl_LocalInvocationIndex < kRankings) select_before_count[gl_LocalInvocationIndex] = 0;
    barrier();
    const HeadPolicy rule = rule_of_head();
    uint coarse[kRankings], fine[kRankings];
    for (uint r = 0; r < kRankings; ++r) coarse[r] = fine[r] = kBins;
    select_round(0, coarse, n_rows, rule);
    for (uint r = 0; r < kRankings; ++r) coarse[r] = select_cut[r];
    select_round(1, coarse, n_rows, rule);
    for (uint r = 0; r < kRankings; ++r)
        if (coarse[r] < kBins) fine[r] = select_cut[r];
    write_list(n_rows, rule, coarse, fine);
    barrier();
    if (kFinal == 0 && gl_LocalInvocationIndex < kGroup) {
        // What is not kept still holds attention: the next level's denominator has it.
        const uint g = gl_LocalInvocationIndex;
        const float rest = max(1.0 - float(select_before_mass[g]) / kMassUnit, 1.0e-9);
        dropped[kv_head * kGroup + g] = shared_lse[g] + log(rest);
    }
}
