// SPDX-License-Identifier: Apache-2.0
// Structures that C++ and GLSL share: push constants (at most 128 bytes each) and the step state.
// Every member is 4 bytes, so that both languages lay them out alike (GLSL: scalar layout).
#ifndef WINNOW_INTERFACE_H
#define WINNOW_INTERFACE_H

#ifdef __cplusplus
#include <cstdint>
namespace winnow {
using uint = std::uint32_t;
#endif

// Most tokens that the repetition penalty looks back on, and most end-of-generation ids.
#define WINNOW_MAX_RECENT 1024
#define WINNOW_MAX_EOG 64
// Tokens of the host-visible ring; more than the steps that are ever in flight.
#define WINNOW_TOKEN_RING 256
// Stands in the ring in place of a token when the logits are not numbers; the step then stops the answer.
#define WINNOW_NO_TOKEN 0xffffffffu

// Tokens of a superblock, the coarsest unit of selection: 16 blocks of 64.
#define WINNOW_SUPER_TOKENS 1024

// A weight matrix inside a buffer that holds its repacked planes (shaders/common/weights.glsl).
struct MatrixRef {
    uint base_quads;  // first 16-byte word of the matrix in the buffer
    uint n_rows;      // rows stored there
    uint type;        // WeightType
};

// What changes from one decode step to the next lives here, on the device.
struct StepState {
    uint position;     // index of the token being processed = tokens already in the cache
    uint token;        // its id
    uint n_generated;  // tokens sampled since the start of this answer
    uint stopped;      // != 0: surplus replays do nothing
    uint n_limit;      // stop after this many tokens
    uint n_capacity;   // stop when the cache is full
    uint seed_low;
    uint seed_high;
    uint rng_counter;  // draws made since the start of the conversation
    float temperature;
    float top_p;
    float min_p;
    float repeat_penalty;
    uint top_k;
    uint repeat_last_n;
    uint n_recent;  // tokens noted in recent[] so far (index modulo WINNOW_MAX_RECENT)
    uint n_eog;
    uint eog[WINNOW_MAX_EOG];
    uint recent[WINNOW_MAX_RECENT];
};

struct EmbedPush {
    MatrixRef table;
    uint first_row;  // vocabulary id of the table's first row (row ranges of large tables)
    float scale;
};

// One matrix of a projection that works in row order; used by matvec_add and logits.
struct MatvecPush {
    MatrixRef w;
    uint first_row;  // first output row of this range
    float eps;
    uint counter;   // index of the arrival counter (post-norm only)
    uint n_blocks;  // of a row, n_in / 32; matvec_add only
};

struct QkvPush {
    MatrixRef q;
    MatrixRef k;
    MatrixRef v;
    float eps;
    float scale;        // softmax scale, folded into q
    uint rope_offset;   // first vec2 of this layer's RoPE table
    uint table_offset;  // first word of this layer's block table
    uint table_stride;  // words from one kv head's row to the next
    uint super_first;   // first superblock row of the summaries
    uint super_stride;  // superblocks of a kv head
};

struct GateUpPush {
    MatrixRef gate;
    MatrixRef up;
    uint first_row;
    float eps;
};

struct AttendPush {
    uint table_offset;
    uint table_stride;
    uint counter;  // index of the first arrival counter, one per kv head
    uint evicted;  // first row of the layer in EvictedSums, or WINNOW_NO_SUMS
};

struct SamplePush {
    uint n_vocab;
    uint n_maxima;
    uint rows_per_maximum;  // logits whose largest one maximum is, in order
};

// Prefill: a chunk of n_tokens starting at `position`; activations between matmuls are f16 rows.
struct EmbedRowsPush {
    MatrixRef table;
    uint first_row;
    uint n_tokens;
    float scale;
};

struct NormRowsPush {
    uint n_tokens;
    float eps;
};

struct MatmulPush {
    MatrixRef w;
    uint first_row;   // first output column of this row range
    uint n_tokens;
    uint out_stride;  // floats from one token's output row to the next
    uint first_token; // of the input rows
};

struct RopeAppendPush {
    uint n_tokens;
    uint position;
    float eps;
    float scale;
    uint rope_offset;
    uint table_offset;
    uint table_stride;
};

struct AttendPrefillPush {
    uint n_tokens;
    uint position;
    uint table_offset;
    uint table_stride;
};

struct GateRowsPush {
    uint n_tokens;
};

// Sparse attention. What each (layer, kv head) may keep; the audit controller writes it, selection reads it.
struct HeadPolicy {
    float mass;         // share of the estimated attention to reach, per query head
    uint budget_min;    // tokens besides sinks and window
    uint budget_max;
    float budget_share; // of the tokens in the cache: the budget is the larger of the two
    float threshold;    // estimated probability below which a token is never kept
};

// State of the selection of one (layer, kv head). A list holds units of tokens; of those at its ends only the tokens
// inside the middle region [sinks, middle_end) count; sinks and everything from middle_end on are attended besides, so
// that a list stays right while tokens are appended.
struct SelectControl {
    uint n_list;         // entries of the list
    uint n_tokens;       // in the middle region
    uint middle_end;     // a multiple of the block size
    uint n_selected_at;  // tokens in the cache when the list was made; 0 = never
};

// n_list of a list whose rows are scored and not yet chosen.
#define WINNOW_LIST_PENDING 0xffffffffu

// Where select_rows cuts the ranking of one kv head's rows.
struct SelectCut {
    uint is_new;  // 0: the list that exists still serves
    uint bin;     // rows of the bins before it are kept
    uint room;    // and so many tokens of its own, lowest ids first
};

struct SelectPush {
    uint table_offset;
    uint table_stride;
    uint list_offset;    // words: list that this level writes; one list per kv head
    uint list_stride;
    uint parent_offset;  // words: list of the level above, units of it
    uint parent_stride;
    uint control;        // first SelectControl of this level's list
    uint parent_control;
    uint final_control;  // of the token list at the end of the chain: decides whether to refresh
    uint policy;         // first HeadPolicy of the layer
    uint maps;           // first float of the layer's index maps
    uint counter;
    uint sink_tokens;
    uint window;
    uint refresh;        // select anew every so many tokens; 0, 1 = always
    float cosine;        // or when the query turned: cosine to the last selecting query below this; > 1 = ignore queries
    uint last_query;     // first float of the layer's last selecting query
    uint super_first;    // first superblock row of the summaries
    uint super_stride;   // superblocks of a kv head
    uint codes;          // first word of the layer's code tables
};

struct SummarizePush {
    uint n_tokens;
    uint position;
    uint table_offset;
    uint table_stride;
    uint maps;
    uint super_first;
    uint super_stride;
    uint codes;
};

struct AttendSparsePush {
    uint table_offset;
    uint table_stride;
    uint list_offset;
    uint list_stride;
    uint control;      // of the layer that made the lists
    uint first_count;  // where the attended counts of this layer go in the ring's slot for the step
    uint count_stride; // from slot to slot of WINNOW_TOKEN_RING
    uint head_map;     // first word of the layer's head map: kv head -> kv head of the lists
    uint counter;
    uint sink_tokens;
    uint window;
    uint window_only;  // != 0: no list at all
    float skip;        // divided by the tokens attended: a value row below that share of the running maximum is not read
    uint evicted;      // as in AttendPush
};

struct SelectAttendPush {
    uint table_offset;
    uint table_stride;
    uint list_offset;    // as in SelectPush
    uint list_stride;
    uint parent_offset;
    uint parent_stride;
    uint control;
    uint parent_control;
    uint policy;
    uint sink_tokens;
    uint window;
    uint first_count;    // as in AttendSparsePush
    uint count_stride;
    uint counter;
    float skip;
    uint evicted;
    uint maps;  // as in SelectPush
};

// Of a layer none of whose heads is summed.
#define WINNOW_NO_SUMS 0xffffffffu
// In place of a number of tokens: as many as there are once the step that runs is done.
#define WINNOW_AFTER_STEP 0xffffffffu

struct SumEvictedPush {
    uint table_offset;
    uint table_stride;
    uint evicted;   // first row of the layer
    uint n_tokens;  // in the cache, or WINNOW_AFTER_STEP: the sums are then what the next token's query needs
};

struct AuditPush {
    uint table_offset;
    uint table_stride;
    uint counter;
    uint sink_tokens;
    uint first_record;  // of the layer: one float pair per query head
};

#define WINNOW_SCORE_EXACT 0        // q . k of every token
#define WINNOW_SCORE_BOX 1          // upper bound from the block's min and max (Quest)
#define WINNOW_SCORE_MEAN 2         // q . mean key of the block
#define WINNOW_SCORE_LOWDIM 3       // index query . index key of every token
#define WINNOW_SCORE_LOWDIM_MEAN 4  // index query . mean index key of the block (HISA)
#define WINNOW_SCORE_CODES 5        // index query . code of every token's index key

// Terms of the curve that a dimension's codes stand for, and words of its table: the place of its code, then those.
#define WINNOW_CODE_TERMS 4
#define WINNOW_CODE_WORDS 5

#define WINNOW_RULE_TOP_K 0
#define WINNOW_RULE_TOP_P 1
#define WINNOW_RULE_THRESHOLD 2

// How scoring ends.
#define WINNOW_SCORE_LIST 0          // the last workgroup applies the rule and writes the list
#define WINNOW_SCORE_DENOMINATORS 1  // it leaves the denominators: select_rows applies the rule
#define WINNOW_SCORE_RANGES 2        // every workgroup leaves its part of them: select_attend applies the rule

// What a dispatch of select_rows does.
#define WINNOW_ROWS_COUNT 0  // ranks and counts, and finds the cut
#define WINNOW_ROWS_WRITE 1  // writes the list, after that
#define WINNOW_ROWS_ONCE 2   // both, where workgroups may wait for each other

#define WINNOW_POOL_MAX 0
#define WINNOW_POOL_MEAN 1
#define WINNOW_POOL_EACH 2  // a token is kept when any head keeps it for itself

// A row of a block table, one per (layer, kv head): a header, then physical block ids. Logical block b of a
// full head (n_ring_blocks 0) stands at entry b; a local head keeps its first n_sink_blocks and a ring of the rest.
#define WINNOW_TABLE_SINK_BLOCKS 0
#define WINNOW_TABLE_RING_BLOCKS 1
#define WINNOW_TABLE_WINDOW 2       // tokens seen, the newest included; 0 = all
#define WINNOW_TABLE_SINK_TOKENS 3  // first tokens that a windowed head sees as well
#define WINNOW_TABLE_HEADER 4

#ifdef __cplusplus
}  // namespace winnow
#endif
#endif
