// SPDX-License-Identifier: Apache-2.0
// How indexer_score scores rows by the codes of their index keys (index_codes.glsl), a row to each invocation, and sinks
// and window, which are few, by the keys themselves. The includer has the query of the kv head in shared_query, by
// dimension, and the rows in slot_rows.
#ifndef WINNOW_SCORE_CODES_GLSL
#define WINNOW_SCORE_CODES_GLSL

shared uint shared_code_places[kCoded ? kIndexDim : 1];
shared vec4 shared_code_curves[kCoded ? kIndexDim : 1];

// n, but the compiler cannot know: a loop of so many turns stays one. Unrolled, codes took 118 KB of machine code, more
// than a processor keeps.
uint rolled(uint n) { return min(n, position + n); }

void stage_codes() {
    for (uint r = gl_LocalInvocationIndex; r < kIndexDim; r += kGroupSize) {
        const uint at = code_tables_at() + r * WINNOW_CODE_WORDS;
        shared_code_places[r] = code_tables[at];
        shared_code_curves[r] = CODE_CURVE(at);
    }
}

// Scores by codes. Word by word: one load serves five or six dimensions. All words are under way together, and move on by
// one in each turn, so that the loop need not be unrolled to name them.
void score_codes() {
    [[unroll]] for (uint i = 0; i < kValues; ++i) slot_scores[i] = 0.0;
    uint w[kInFlight * kCodeWords];
    [[unroll]] for (uint t = 0; t < kInFlight; ++t)
        [[unroll]] for (uint word = 0; word < kCodeWords; ++word)
            w[t * kCodeWords + word] = slot_rows[t].inside ? uint(code_plane[code_at(slot_rows[t].row, word)]) : 0;
    for (uint word = 0; word < rolled(kCodeWords); ++word) {
        for (uint c = 0; c < kCodeColumns; ++c) {
            const uint r = code_dim(word, c);
            if (r >= kIndexDim) continue;
            const uint place = shared_code_places[r];
            const vec4 curve = shared_code_curves[r];
            float x_query[kGroup];
            [[unroll]] for (uint g = 0; g < kGroup; ++g) x_query[g] = shared_query[query_at(g, r)];
            [[unroll]] for (uint t = 0; t < kInFlight; ++t) {
                const uint code = bitfieldExtract(w[t * kCodeWords], int(code_first(place)), int(code_bits(place)));
                const float x = code_value(curve, code);
                [[unroll]] for (uint g = 0; g < kGroup; ++g)
                    slot_scores[t * kGroup + g] += x_query[g] * x;
            }
        }
        [[unroll]] for (uint x = 0; x + 1 < kInFlight * kCodeWords; ++x) w[x] = w[x + 1];
    }
}

// Sinks and window by their index keys, as rows go by codes: few, a row to each invocation too.
void score_index_keys() {
    [[unroll]] for (uint i = 0; i < kValues; ++i) slot_scores[i] = 0.0;
    for (uint r = 0; r < rolled(kDim); r += 8) {
        [[unroll]] for (uint t = 0; t < kInFlight; ++t) {
            vec4 a = vec4(0.0), b = vec4(0.0);
            if (slot_rows[t].inside) INDEX_LOAD(slot_rows[t].row, r / 8, a, b)
            [[unroll]] for (uint e = 0; e < 4; ++e)
                [[unroll]] for (uint g = 0; g < kGroup; ++g)
                    slot_scores[t * kGroup + g] +=
                        shared_query[query_at(g, r + e)] * a[e] + shared_query[query_at(g, r + 4 + e)] * b[e];
        }
    }
}

#endif
