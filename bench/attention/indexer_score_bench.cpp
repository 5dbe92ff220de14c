// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/indexer_score.h"

#include <algorithm>
#include <cmath>

#include "bench/support/attention_setup.h"
#include "bench/support/check.h"
#include "bench/support/check_choice.h"
#include "bench/support/registry.h"
#include "runtime/attention/summarize_block.h"
#include "runtime/kv/index_codes.h"
#include "runtime/vk/upload.h"
#include "tests/reference/indexer_score.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kIndexDim = 16, kSinks = 4, kWindow = 64;

struct Scoring {
    Scorer scorer;
    std::uint32_t unit;
    ScoreEnding ending;
};

// Codes of 16 dimensions with three bits each, the last columns of a word two, and even steps over what random halves
// give.
IndexCodes even_codes(std::uint32_t n_kv_heads) {
    IndexCodes codes;
    for (std::uint32_t i = 0; i < n_kv_heads * kIndexDim; ++i) {
        const std::uint32_t bits = i % kIndexDim / index_code_words(kIndexDim) < 4 ? 3 : 2, n = 1u << bits;
        codes.bits.push_back(static_cast<std::uint8_t>(bits));
        const float step = 8 / static_cast<float>(n);
        for (const float term : {step / 2 - 4, step, 0.0f, 0.0f}) codes.curves.push_back(term);
    }
    return codes;
}

/// Summaries and index keys of the cache's tokens, as prefill leaves them; what is scored in several copies, as layers
/// have them.
struct Rows {
    Rows(const AttentionSetup& on, const AttentionCase& at, const Scoring& what, std::uint64_t scored_bytes)
        : map_values(random_halves(at.shape.n_kv_heads * 2ull * kIndexDim * at.shape.head_dim, 5)),
          maps(f32_buffer(map_values)),
          codes(even_codes(at.shape.n_kv_heads)) {
        Bench& b = Bench::get();
        code_tables = b.words(pack_code_tables(codes, kIndexDim));
        SummarizeBlock::Config c;
        c.n_kv_heads = at.shape.n_kv_heads;
        c.head_dim = at.shape.head_dim;
        c.kv_type = at.kv_type;
        c.summary_unit = std::max(what.unit, 16u);
        c.index_dim = kIndexDim;
        c.codes = true;
        const SummarizeBlock summarize(b.device(), c);
        const std::uint32_t blocks = on.cache.layout().layer_blocks(0), units = blocks * 64 / c.summary_unit,
                            supers = (at.n_tokens + 1023) / 1024;
        const std::uint64_t values = std::uint64_t{units + supers * at.shape.n_kv_heads} * at.shape.head_dim;
        low.push_back(b.buffer(values * 2));
        high.push_back(b.buffer(values * 2));
        sum.push_back(b.buffer(values * 4));
        index.push_back(b.buffer(std::uint64_t{blocks} * 64 * kIndexDim * 2));
        index_sums = b.buffer(std::uint64_t{blocks} * kIndexDim * 4);
        index_codes.push_back(b.buffer(std::uint64_t{blocks} * 64 * index_code_words(kIndexDim) * 2));
        vk::run_once(b.device(), [&](vk::Recorder& r) {
            summarize.record(r,
                             {on.tables(), on.keys(0), low[0], high[0], sum[0], maps, index[0], index_sums,
                              index_codes[0], code_tables},
                             {at.n_tokens, 0, 0, on.table_stride(), 0, units, supers, 0});
        });
        const std::uint64_t n_copies =
            std::clamp<std::uint64_t>(b.rotation_bytes() / std::max<std::uint64_t>(scored_bytes, 1), 1, 32);
        for (auto* copies : {&low, &high, &sum, &index, &index_codes}) {
            const bool is_scored = (what.scorer == Scorer::kBox && (copies == &low || copies == &high)) ||
                                   (what.scorer == Scorer::kMean && copies == &sum) ||
                                   (what.scorer == Scorer::kLowdim && copies == &index) ||
                                   (what.scorer == Scorer::kCodes && copies == &index_codes);
            while (is_scored && copies->size() < n_copies) {
                copies->push_back(b.zeros(copies->front().bytes()));
                vk::run_once(b.device(), [&](vk::Recorder& r) { r.copy(copies->front(), copies->back()); });
            }
        }
    }
    static const vk::Buffer& of(const std::vector<vk::Buffer>& copies, std::uint32_t i) {
        return copies[i % copies.size()];
    }

    std::vector<float> map_values;  // per kv head [A: kIndexDim, head_dim][B: kIndexDim, head_dim]
    vk::Buffer maps;
    IndexCodes codes;
    vk::Buffer code_tables;
    std::vector<vk::Buffer> low, high, sum, index, index_codes;
    vk::Buffer index_sums;
};

// What IndexerScore writes.
struct Scores {
    Scores(const IndexerScore::Config& c, std::uint32_t n_tokens)
        : stride(IndexerScore::score_stride(c.max_rows)),
          scores(Bench::get().buffer(std::uint64_t{c.n_heads} * stride * 4)),
          partials(Bench::get().buffer((c.n_splits + 1) * c.n_heads * 8ull)),
          lists(Bench::get().buffer(std::uint64_t{c.n_kv_heads} * n_tokens * 4)),
          controls(Bench::get().zeros(c.n_kv_heads * sizeof(SelectControl))),
          dropped(Bench::get().zeros(c.n_heads * 4)),
          last(Bench::get().buffer(c.n_heads * c.head_dim * 4ull)) {}
    std::uint32_t stride;
    vk::Buffer scores, partials, lists, controls, dropped, last;
};

// Index keys by the row at which a reference looks for them: those of tokens whose keys are the same are the same.
std::vector<float> index_keys(const AttentionSetup& on, const Rows& rows, const reference::HeadView& view,
                              std::uint32_t kv_head, std::uint32_t n_tokens) {
    const std::vector<std::byte> stored = vk::read_back(Bench::get().device(), rows.index[0]);
    const std::vector<float> all = kv_values(KvType::kF16, kIndexDim, stored);
    const std::size_t first = std::size_t{on.cache.layout().head(0, kv_head).first_block} * 64 * kIndexDim;
    std::vector<float> keys;
    for (std::uint32_t t = 0; t < n_tokens; ++t) {
        const std::size_t at = view.row(t) * kIndexDim;
        keys.resize(std::max(keys.size(), at + kIndexDim));
        std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(first + std::size_t{t} * kIndexDim), kIndexDim,
                    keys.begin() + static_cast<std::ptrdiff_t>(at));
    }
    return keys;
}

// What the codes of a kv head say of those keys.
std::vector<float> coded_keys(const Rows& rows, std::vector<float> keys, std::uint32_t kv_head) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
        const std::size_t dim = std::size_t{kv_head} * kIndexDim + i % kIndexDim;
        const float* curve = rows.codes.curves.data() + dim * kCodeTerms;
        std::uint32_t code = 0;
        while (code + 1 < 1u << rows.codes.bits[dim] &&
               keys[i] >= 0.5f * (code_value(curve, code) + code_value(curve, code + 1)))
            ++code;
        keys[i] = code_value(curve, code);
    }
    return keys;
}

// Scores of the first query head and the last one; and where there is a list, the list of their kv heads.
std::string check(const AttentionSetup& on, const AttentionCase& at, const Rows& rows, const Scores& out,
                  const IndexerScore::Config& c) {
    vk::Device& device = Bench::get().device();
    const auto scores = vk::read_back_as<float>(device, out.scores),
               partials = vk::read_back_as<float>(device, out.partials);
    const auto lists = vk::read_back_as<std::uint32_t>(device, out.lists);
    const auto controls = vk::read_back_as<SelectControl>(device, out.controls);
    const std::uint32_t group = on.n_group(), n = at.n_tokens;
    for (const std::uint32_t head : first_and_last(on.n_heads())) {
        const std::uint32_t h = head / group;
        const reference::HeadView head_view = on.cache.head(h);
        const auto map = std::span<const float>(rows.map_values).subspan(2ull * h * kIndexDim * at.shape.head_dim);
        const std::vector<float> keys = c.level.scorer == Scorer::kLowdim || c.level.scorer == Scorer::kCodes
                                            ? index_keys(on, rows, head_view, h, n)
                                            : std::vector<float>();
        const std::vector<float> coded =
            c.level.scorer == Scorer::kCodes ? coded_keys(rows, keys, h) : std::vector<float>();
        const reference::SelectView view{.cache = on.cache.view({&head_view, 1}),
                                         .query = on.query_of(head),
                                         .position = n - 1,
                                         .sinks = kSinks,
                                         .window = kWindow,
                                         .index_dim = kIndexDim,
                                         .maps = map,
                                         .index_keys = keys,
                                         .coded_keys = coded};
        const reference::Level expected = reference::indexer_score(view, c.level, 0, nullptr, 0, {});
        std::vector<double> raw;
        for (const reference::Row& row : expected.rows) raw.push_back(row.log_weight[0] + expected.lse[0]);
        const auto got = std::span<const float>(scores).subspan(std::size_t{head} * out.stride, raw.size());
        std::string wrong = difference({got.begin(), got.end()}, raw, 2e-3);  // summaries are halves
        if (!wrong.empty() || c.ending != ScoreEnding::kList) {
            if (!wrong.empty()) return "scores: " + wrong;
            continue;
        }
        ScoredRows scored{std::span<const float>(scores).subspan(std::size_t{h} * group * out.stride),
                          out.stride,
                          {},
                          {},
                          c.level.unit,
                          kSinks,
                          n - kWindow};
        for (std::uint32_t g = 0; g < group; ++g) {
            const std::size_t sure =
                2 * ((std::size_t{h} * (c.n_splits + 1) + c.n_splits) * group + g);  // (m, d) of sinks and window
            double sum = double{partials[sure + 1]} * std::exp(double{partials[sure]});
            for (const reference::Row& row : expected.rows)
                sum +=
                    row.n_tokens * std::exp(double{scored.scores[g * out.stride + row.unit - expected.rows[0].unit]});
            scored.lse.push_back(std::log(sum));
            scored.sure.push_back(0);  // a budget of tokens does not ask for it
        }
        const auto list =
            std::span<const std::uint32_t>(lists).subspan(std::size_t{h} * n, std::min(controls[h].n_list, n));
        wrong =
            check_choice(scored, c.level, n / 20, list, 1.0 / 2048);  // the finest bin of shaders/common/select.glsl
        if (!wrong.empty()) return wrong;
    }
    return {};
}

void run(benchmark::State& state, const AttentionCase& at, const Scoring& what) {
    Bench& b = Bench::get();
    const Shape& s = at.shape;
    const std::uint32_t n = at.n_tokens;
    auto c = stage_config<IndexerScore>(s);
    c.kv_type = at.kv_type;
    c.level = {.scorer = what.scorer, .unit = what.unit, .rule = BudgetRule::kTopK};
    c.ending = what.ending;
    c.index_dim = kIndexDim;
    c.codes = what.scorer == Scorer::kCodes;
    c.max_rows = n / what.unit + 1;
    c.n_splits = select_splits(b.device().is_cpu(), s.n_kv_heads, n);
    const AttentionSetup on(at);
    const IndexerScore stage(b.device(), c);
    const std::uint64_t bytes = IndexerScore::bytes_moved(c, n);
    const Rows rows(on, at, what, bytes);
    const Scores out(c, n);
    std::vector<std::uint32_t> policy_words;
    for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) policy_words.insert(policy_words.end(), {0, 0, n / 20, 0, 0});
    const vk::Buffer policies = b.words(policy_words);
    SelectPush push{};
    push.table_stride = on.table_stride();
    push.list_stride = n;
    push.sink_tokens = kSinks;
    push.window = kWindow;
    push.refresh = 1;
    push.cosine = 2;
    b.run(
        state, bytes,
        [&](vk::Recorder& r, std::uint32_t i) {
            push.table_offset = on.table_offset(i);
            const vk::Buffer& scored = Rows::of(what.scorer == Scorer::kMean ? rows.sum : rows.low, i);
            stage.record(r,
                         {on.state,
                          on.tables(),
                          scored,
                          Rows::of(rows.high, i),
                          on.query,
                          rows.maps,
                          on.keys(i),
                          Rows::of(rows.index, i),
                          rows.index_sums,
                          out.lists,
                          out.lists,
                          out.scores,
                          out.partials,
                          on.counters,
                          out.controls,
                          policies,
                          out.last,
                          out.dropped,
                          Rows::of(rows.index_codes, i),
                          rows.code_tables},
                         push);
        },
        [&] { return check(on, at, rows, out, c); });
}

}  // namespace

void register_indexer_score() {
    struct Case {
        const char* name;
        Scoring what;
        AttentionCases at{};
    };
    // The cache's type matters to those that read keys.
    for (const Case& which :
         {Case{"box16", {Scorer::kBox, 16, ScoreEnding::kList}},
          Case{"box16_ranges", {Scorer::kBox, 16, ScoreEnding::kRanges}, {{KvType::kF16}, true}},
          Case{"box64_ranges", {Scorer::kBox, 64, ScoreEnding::kRanges}, {{KvType::kF16}, true}},
          Case{"mean64", {Scorer::kMean, 64, ScoreEnding::kList}},
          Case{"exact", {Scorer::kExact, 1, ScoreEnding::kList}, {kKvTypes, false}},
          Case{"lowdim16", {Scorer::kLowdim, 1, ScoreEnding::kList}},
          Case{"codes16", {Scorer::kCodes, 1, ScoreEnding::kDenominators}, {{KvType::kF16}, false}},
          Case{"lowdim16_denominators", {Scorer::kLowdim, 1, ScoreEnding::kDenominators}, {{KvType::kF16}, false}}})
        register_attention(
            std::string("indexer_score_") + which.name, which.at,
            [what = which.what](benchmark::State& state, const AttentionCase& at) { run(state, at, what); });
}

}  // namespace winnow::bench
