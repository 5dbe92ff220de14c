// SPDX-License-Identifier: Apache-2.0
#include "tests/support/select_rig.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "runtime/kv/index_codes.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/timeline.h"
#include "tests/reference/summarize_block.h"
#include "tests/support/code_rows.h"
#include "tests/support/index_rows.h"
#include "tests/support/kv_rows.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kFirstControl = 3, kFirstPolicy = 2, kListOffset = 5, kFirstCounter = 2, kFirstQuery = 8;
constexpr std::uint32_t kNoLimit = 0x7fffffff, kSuper = 1024;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename T>
std::unique_ptr<GuardedBuffer> guarded(vk::Device& device, const std::string& name, const std::vector<T>& values) {
    return std::make_unique<GuardedBuffer>(device, name, std::as_bytes(std::span(values)));
}

std::uint32_t unit_of(const SelectCase& c, std::initializer_list<Scorer> scorers, std::uint32_t otherwise) {
    for (const SelectLevel& level : c.levels)
        if (std::find(scorers.begin(), scorers.end(), level.scorer) != scorers.end() && level.unit < kSuper)
            return level.unit;
    return otherwise;
}
std::uint32_t summary_unit(const SelectCase& c) { return unit_of(c, {Scorer::kBox, Scorer::kMean}, kBlock); }
std::uint32_t index_unit(const SelectCase& c) { return unit_of(c, {Scorer::kLowdimMean}, kBlock); }
bool scores_codes(const SelectCase& c) {
    return std::any_of(c.levels.begin(), c.levels.end(),
                       [](const SelectLevel& level) { return level.scorer == Scorer::kCodes; });
}
Chooser chooser_of(const SelectCase& c, std::size_t level) {
    if (level + 1 == c.levels.size()) return c.chooser;
    return c.rows_choose_codes && c.levels[level].scorer == Scorer::kCodes ? Chooser::kRows : Chooser::kScore;
}
constexpr std::uint32_t kFirstCodeWord = 3;

}  // namespace

const IndexerScore& SelectStages::get(vk::Device& device, const SelectCase& c, std::size_t i) {
    const SelectLevel& level = c.levels[i];
    IndexerScore::Config config{.n_heads = c.shape.n_heads(),
                                .n_kv_heads = c.shape.n_kv_heads,
                                .head_dim = c.shape.head_dim,
                                .kv_type = c.shape.kv_type,
                                .block_size = kBlock,
                                .level = level,
                                .pool = c.pool,
                                .parent_unit = i == 0 ? 0 : c.levels[i - 1].unit,
                                .is_final = i + 1 == c.levels.size(),
                                .index_dim = std::max(c.index_dim, 8u),
                                .index_unit = index_unit(c),
                                .index_type = c.index_type,
                                .max_rows = c.max_rows,
                                .n_splits = kSplits,
                                .append_index = i == 0 && c.index_dim != 0,
                                .codes = scores_codes(c),
                                .append_only = false,
                                .ending = static_cast<ScoreEnding>(chooser_of(c, i))};
    const std::string key =
        fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}", config.n_heads, config.n_kv_heads,
                    config.head_dim, static_cast<int>(config.kv_type), static_cast<int>(level.scorer), level.unit,
                    static_cast<int>(level.rule), static_cast<int>(c.pool), config.parent_unit, config.is_final,
                    config.index_dim, config.index_unit, config.append_index, static_cast<int>(config.index_type),
                    static_cast<int>(config.ending), c.max_rows, config.codes);
    std::unique_ptr<IndexerScore>& stage = stages_[key];
    if (!stage) stage = std::make_unique<IndexerScore>(device, config);
    return *stage;
}

const SelectRows& SelectStages::get_rows(vk::Device& device, const SelectCase& c, std::size_t i) {
    const SelectLevel& level = c.levels[i];
    const SelectRows::Config config{.n_heads = c.shape.n_heads(),
                                    .n_kv_heads = c.shape.n_kv_heads,
                                    .block_size = kBlock,
                                    .level = level,
                                    .pool = c.pool,
                                    .parent_unit = i == 0 ? 0 : c.levels[i - 1].unit,
                                    .is_final = i + 1 == c.levels.size(),
                                    .score_stride = IndexerScore::score_stride(c.max_rows),
                                    .n_splits = kRowSplits,
                                    .n_score_splits = kSplits,
                                    .waits = c.rows_wait,
                                    .patience = c.patience,
                                    .tuning = c.rows_tuning};
    std::unique_ptr<SelectRows>& stage =
        row_stages_[fmt::format("{} {} {} {} {} {} {} {} {} {}", config.n_heads, config.n_kv_heads,
                                static_cast<int>(level.rule), static_cast<int>(c.pool), config.parent_unit, c.max_rows,
                                config.is_final, c.rows_wait, c.patience, c.rows_tuning.group_size)];
    if (!stage) stage = std::make_unique<SelectRows>(device, config);
    return *stage;
}

const SelectAttend& SelectStages::get_attend(vk::Device& device, const SelectCase& c) {
    const CacheShape& s = c.shape;
    const SelectAttend::Config config{.n_heads = s.n_heads(),
                                      .n_kv_heads = s.n_kv_heads,
                                      .head_dim = s.head_dim,
                                      .kv_type = s.kv_type,
                                      .block_size = kBlock,
                                      .n_splits = kAttendSplits,
                                      .quantize = s.n_group * s.head_dim % 32 == 0,
                                      .skip_values = c.skip > 0,
                                      .level = c.levels.back(),
                                      .pool = c.pool,
                                      .parent_unit = c.levels.size() == 1 ? 0 : c.levels[c.levels.size() - 2].unit,
                                      .most_rows = std::min(8192 / c.levels.back().unit, c.max_rows),
                                      .most_always = 2048,
                                      .score_stride = IndexerScore::score_stride(c.max_rows),
                                      .n_score_splits = kSplits,
                                      .scores_rows = c.scores_rows,
                                      .own_rows = c.own_rows,
                                      .patience = c.patience,
                                      .index_dim = std::max(c.index_dim, 8u),
                                      .index_type = c.index_type,
                                      .tuning = c.tuning};
    std::unique_ptr<SelectAttend>& stage = attend_stages_[fmt::format(
        "{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}", config.n_heads, config.n_kv_heads, config.head_dim,
        static_cast<int>(config.kv_type), config.skip_values, config.level.unit, static_cast<int>(config.level.rule),
        static_cast<int>(c.pool), config.parent_unit, c.tuning.group_size, c.tuning.tokens_in_flight, c.max_rows,
        c.scores_rows, c.own_rows, c.patience, static_cast<int>(config.level.scorer), c.index_dim,
        static_cast<int>(c.index_type))];
    if (!stage) stage = std::make_unique<SelectAttend>(device, config);
    return *stage;
}

SelectRig::SelectRig(vk::Device& device, SelectStages& stages, SelectCase c, TestCache cache)
    : device_(device), case_(std::move(c)), cache_(std::move(cache)) {
    const CacheShape& s = case_.shape;
    const std::uint32_t position = s.position();
    const auto n_levels = static_cast<std::uint32_t>(case_.levels.size());
    for (std::size_t i = 0; i < n_levels - (case_.scores_rows ? 1 : 0); ++i)
        stages_.push_back(&stages.get(device, case_, i));
    tables_ = make_buffer(device, std::span<const std::uint32_t>(cache_.table()));
    keys_ = cache_.upload(device, cache_.keys);
    none_ = make_buffer(device, std::span<const float>(std::vector<float>(4)));

    // Summaries of blocks by physical block, then of superblocks by kv head.
    const std::uint32_t unit = summary_unit(case_), per_block = kBlock / unit;
    super_first_ = cache_.n_physical * per_block;
    super_stride_ = position / kSuper + 2;
    std::vector<float> low((super_first_ + super_stride_ * s.n_kv_heads) * s.head_dim, kNan), high = low, sum = low;
    const auto fill = [&](std::size_t row, std::uint32_t kv_head, std::uint32_t begin, std::uint32_t size) {
        const reference::Summary r =
            reference::summarize_block(cache_.view(), kv_head, begin, std::min(begin + size, position + 1));
        for (std::size_t i = 0; i < s.head_dim; ++i) {
            low[row * s.head_dim + i] = static_cast<float>(r.min[i]);
            high[row * s.head_dim + i] = static_cast<float>(r.max[i]);
            sum[row * s.head_dim + i] = static_cast<float>(r.sum[i]);
        }
    };
    const bool summarized = std::any_of(case_.levels.begin(), case_.levels.end(), [](const SelectLevel& l) {
        return l.scorer == Scorer::kBox || l.scorer == Scorer::kMean;
    });
    for (std::uint32_t h = 0; summarized && h < s.n_kv_heads; ++h) {
        for (std::uint32_t t = 0; t <= position; t += unit) fill(cache_.heads[h].row(t) / unit, h, t, unit);
        for (std::uint32_t t = 0; t <= position; t += kSuper)
            fill(super_first_ + h * super_stride_ + t / kSuper, h, t, kSuper);
    }
    min_ = cache_.upload_summary(device, low);
    max_ = cache_.upload_summary(device, high);
    sum_ = make_buffer(device, std::span<const float>(sum));

    // Index keys of all tokens but the newest, which the stage appends.
    const std::uint32_t dim = case_.index_dim, iu = index_unit(case_);
    ReplicableRng rng(77);
    maps_values_ = rng.normals(std::size_t{s.n_kv_heads} * 2 * dim * s.head_dim + 4, 0, 0.25f);
    index_values_.assign(cache_.n_rows() * dim, kNan);
    std::vector<float> index_sums(cache_.n_rows() / iu * dim + 8, kNan);
    for (std::uint32_t h = 0; dim != 0 && h < s.n_kv_heads; ++h) {
        for (std::uint32_t t = 0; t <= position; ++t) {
            const std::size_t map = std::size_t{dim} * s.head_dim;
            const auto key = reference::index_key(cache_.view(), h, t,
                                                  std::span<const float>(maps_values_).subspan((2 * h + 1) * map, map));
            const std::size_t row = cache_.heads[h].row(t);
            for (std::size_t r = 0; t < position && r < dim; ++r) {
                index_values_[row * dim + r] = static_cast<float>(key.value[r]);
                float& total = index_sums[row / iu * dim + r];
                total = (t % iu == 0 ? 0.0f : total) + static_cast<float>(key.value[r]);
            }
        }
    }
    std::vector<std::byte> index_plane(16);
    if (dim != 0) index_plane = pack_index_rows(case_.index_type, dim, index_values_);
    maps_ = make_buffer(device, std::span<const float>(maps_values_));
    index_keys_ = guarded(device, "index_keys", index_plane);
    index_sums_ = guarded(device, "index_sums", index_sums);

    // Their codes: of the keys as they are stored.
    std::vector<std::uint32_t> code_words(kFirstCodeWord);
    std::vector<std::uint16_t> code_plane(8);
    if (scores_codes(case_)) {
        codes_ = random_codes(s.n_kv_heads, dim, 0.25f * std::sqrt(static_cast<float>(s.head_dim)));
        const std::vector<std::uint32_t> tables = pack_code_tables(codes_, dim);
        code_words.insert(code_words.end(), tables.begin(), tables.end());
        const std::vector<float> stored = unpack_index_rows(case_.index_type, dim, index_plane);
        code_plane.assign(cache_.n_rows() * index_code_words(dim), 0xffff);
        for (std::uint32_t h = 0; h < s.n_kv_heads; ++h)
            for (std::uint32_t t = 0; t < position; ++t) {
                const std::size_t row = cache_.heads[h].row(t);
                pack_code_row(code_plane, codes_, h, dim, row, std::span(stored).subspan(row * dim, dim));
            }
    }
    code_tables_ = make_buffer(device, std::span<const std::uint32_t>(code_words));
    index_codes_ = guarded(device, "index_codes", code_plane);

    list_stride_ = s.n_tokens + kBlock + 3;
    lists_ =
        std::make_unique<GuardedBuffer>(device, "lists", (kListOffset + n_levels * s.n_kv_heads * list_stride_) * 4);
    scores_ = std::make_unique<GuardedBuffer>(
        device, "scores", std::size_t{s.n_heads()} * IndexerScore::score_stride(case_.max_rows) * 4);
    const std::size_t n_states =
        std::max(case_.scores_rows ? 2 * SelectStages::kAttendSplits : 0, SelectStages::kSplits + 1);
    partials_ = std::make_unique<GuardedBuffer>(device, "partials", s.n_heads() * n_states * 8);
    counters_ = guarded(device, "counters", std::vector<std::uint32_t>(kFirstCounter + s.n_kv_heads + 1));
    controls_ = guarded(device, "controls", std::vector<SelectControl>(kFirstControl + n_levels * s.n_kv_heads + 1));
    last_queries_ = std::make_unique<GuardedBuffer>(device, "last_queries", (kFirstQuery + cache_.query.size()) * 4);
    dropped_ = std::make_unique<GuardedBuffer>(device, "dropped", s.n_heads() * 4);
    if (case_.chooser == Chooser::kAttend) {
        select_attend_ = &stages.get_attend(device, case_);
        values_ = cache_.upload(device, cache_.values);
        const auto output = [&](const char* name, std::size_t bytes) {
            return std::make_unique<GuardedBuffer>(device, name, bytes);
        };
        attend_partials_ = output("attend_partials", attend_partial_bytes(s.n_heads(), s.n_kv_heads, s.head_dim,
                                                                          SelectStages::kAttendSplits));
        attend_counters_ = guarded(device, "attend_counters", std::vector<std::uint32_t>(kFirstCounter + s.n_kv_heads));
        attended_ = output("attended", cache_.query.size() * 4);
        act_ = output("act", (cache_.query.size() / 32 + 1) * 80);
        lse_ = output("lse", s.n_heads() * 4);
        counts_ = output("counts", s.n_kv_heads * 4);
    }
    std::size_t bin_bytes = 0, through_bytes = 0;
    for (std::size_t i = 0; i < n_levels; ++i) {
        select_rows_.push_back(chooser(i) == Chooser::kRows ? &stages.get_rows(device, case_, i) : nullptr);
        if (select_rows_.back() == nullptr) continue;
        const BudgetRule rule = case_.levels[i].rule;
        const bool is_final = i + 1 == n_levels;
        bin_bytes = std::max(bin_bytes, SelectRows::bin_bytes(rule, s.n_kv_heads, s.n_group, is_final));
        through_bytes = std::max(through_bytes, SelectRows::through_bytes(rule, s.n_kv_heads, s.n_group,
                                                                          SelectStages::kRowSplits, is_final));
    }
    if (bin_bytes != 0) {
        ranks_ = std::make_unique<GuardedBuffer>(
            device, "ranks", SelectRows::rank_bytes(s.n_kv_heads, IndexerScore::score_stride(case_.max_rows)));
        bins_ = guarded(device, "bins", std::vector<std::uint8_t>(bin_bytes));
        through_ = std::make_unique<GuardedBuffer>(device, "through", through_bytes);
        cuts_ = std::make_unique<GuardedBuffer>(device, "cuts", s.n_kv_heads * sizeof(SelectCut));
    }
    std::vector<HeadPolicy> policies(kFirstPolicy);
    for (const SelectLevel& level : case_.levels)
        policies.insert(policies.end(), s.n_kv_heads,
                        HeadPolicy{level.mass, level.budget_min, level.budget == 0 ? kNoLimit : level.budget,
                                   level.budget_share, level.threshold});
    policies_ = make_buffer(device, std::span<const HeadPolicy>(policies));
    set_query(cache_.query);
}

void SelectRig::set_query(const std::vector<float>& query) {
    cache_.query = query;
    query_ = make_buffer(device_, std::span<const float>(query));
}

std::uint32_t SelectRig::list_offset(std::size_t level) const {
    return kListOffset + static_cast<std::uint32_t>(level) * case_.shape.n_kv_heads * list_stride_;
}

SelectPush SelectRig::push(std::size_t level) const {
    const std::uint32_t n = case_.shape.n_kv_heads, own = static_cast<std::uint32_t>(level);
    const std::uint32_t parent = own == 0 ? 0 : own - 1, last = static_cast<std::uint32_t>(case_.levels.size()) - 1;
    return {.table_offset = TestCache::table_offset,
            .table_stride = cache_.table_stride,
            .list_offset = list_offset(level),
            .list_stride = list_stride_,
            .parent_offset = list_offset(parent),
            .parent_stride = list_stride_,
            .control = kFirstControl + own * n,
            .parent_control = kFirstControl + parent * n,
            .final_control = kFirstControl + last * n,
            .policy = kFirstPolicy + own * n,
            .maps = 0,
            .counter = kFirstCounter,
            .sink_tokens = case_.sinks,
            .window = case_.window,
            .refresh = case_.refresh,
            .cosine = case_.cosine,
            .last_query = kFirstQuery,
            .super_first = super_first_,
            .super_stride = super_stride_,
            .codes = kFirstCodeWord};
}

// With what a level that has scored leaves for the stage that chooses.
std::vector<std::uint32_t> SelectRig::controls_of_a_choice() const {
    const std::uint32_t n = case_.shape.n_kv_heads, words = sizeof(SelectControl) / 4;
    std::vector<std::uint32_t> controls((kFirstControl + select_rows_.size() * n + 1) * words);
    for (std::size_t i = 0; i < select_rows_.size() * n; ++i)
        if (select_rows_[i / n] != nullptr) controls[(kFirstControl + i) * words] = WINNOW_LIST_PENDING;
    return controls;
}

void SelectRig::run(std::uint32_t position, bool stopped) {
    position_ = position;
    if (stopped) controls_ = guarded(device_, "controls", controls_of_a_choice());
    const vk::Buffer state = make_sparse_state(device_, position, stopped);
    vk::run_once(device_, [&](vk::Recorder& recorder) {
        for (std::size_t i = 0; i < stages_.size(); ++i) {
            vk::BufferRange rows = none_, rows_max = none_;
            const Scorer scorer = case_.levels[i].scorer;
            if (scorer == Scorer::kBox) rows = min_, rows_max = max_;
            if (scorer == Scorer::kMean) rows = sum_;
            if (scorer == Scorer::kLowdimMean) rows = index_sums_->range();
            stages_[i]->record(recorder,
                               {state,
                                tables_,
                                rows,
                                rows_max,
                                query_,
                                maps_,
                                keys_,
                                index_keys_->range(),
                                index_sums_->range(),
                                lists_->range(),
                                lists_->range(),
                                scores_->range(),
                                partials_->range(),
                                counters_->range(),
                                controls_->range(),
                                policies_,
                                last_queries_->range(),
                                dropped_->range(),
                                index_codes_->range(),
                                code_tables_},
                               push(i));
            recorder.barrier();
            if (select_rows_[i] == nullptr) continue;
            const SelectRows::Buffers buffers{state,
                                              tables_,
                                              lists_->range(),
                                              lists_->range(),
                                              scores_->range(),
                                              partials_->range(),
                                              ranks_->range(),
                                              bins_->range(),
                                              through_->range(),
                                              counters_->range(),
                                              controls_->range(),
                                              policies_,
                                              cuts_->range(),
                                              dropped_->range()};
            for (std::uint32_t pass = 0; pass < select_rows_[i]->n_dispatches(); ++pass) {
                select_rows_[i]->record(recorder, buffers, push(i), pass);
                recorder.barrier();
            }
        }
        if (select_attend_ != nullptr) {
            const SelectPush p = push(case_.levels.size() - 1);
            select_attend_->record(recorder,
                                   {state,
                                    tables_,
                                    keys_,
                                    values_,
                                    query_,
                                    attend_partials_->range(),
                                    attend_counters_->range(),
                                    attended_->range(),
                                    act_->range(),
                                    lists_->range(),
                                    controls_->range(),
                                    lists_->range(),
                                    lse_->range(),
                                    counts_->range(),
                                    scores_->range(),
                                    partials_->range(),
                                    policies_,
                                    none_,
                                    min_,
                                    max_,
                                    index_keys_->range(),
                                    maps_,
                                    dropped_->range(),
                                    counters_->range()},
                                   {p.table_offset, p.table_stride, p.list_offset, p.list_stride, p.parent_offset,
                                    p.parent_stride, p.control, p.parent_control, p.policy, p.sink_tokens, p.window, 0,
                                    0, kFirstCounter, case_.skip, WINNOW_NO_SUMS, p.maps});
        }
    });
}

SelectControl SelectRig::control(std::size_t level, std::uint32_t kv_head) const {
    return controls_->contents<SelectControl>()[kFirstControl + level * case_.shape.n_kv_heads + kv_head];
}

std::vector<std::uint32_t> SelectRig::list(std::size_t level, std::uint32_t kv_head) const {
    for (const std::uint32_t counter : counters_->contents<std::uint32_t>()) EXPECT_EQ(counter, 0u);
    if (bins_) {
        for (const std::uint32_t bin : bins_->contents<std::uint32_t>()) EXPECT_EQ(bin, 0u);
    }
    const std::vector<std::uint32_t> words = list_words();
    const auto begin = words.begin() + list_offset(level) + kv_head * list_stride_;
    const std::uint32_t n = control(level, kv_head).n_list;
    if (n > list_stride_) {
        ADD_FAILURE() << n << " entries in a list of " << list_stride_;
        return {};
    }
    EXPECT_TRUE(std::all_of(begin + n, begin + list_stride_, [](std::uint32_t w) { return w == ~0u; }))
        << "after the list";
    return {begin, begin + n};
}

SelectRig::Attention SelectRig::attention() const {
    attend_partials_->bytes();  // looks at its canaries
    for (const std::uint32_t counter : attend_counters_->contents<std::uint32_t>()) EXPECT_EQ(counter, 0u);
    return {attended_->contents<float>(), lse_->contents<float>(), counts_->contents<std::uint32_t>(),
            act_->contents<std::uint32_t>()};
}

Chooser SelectRig::chooser(std::size_t level) const { return chooser_of(case_, level); }

double SelectRig::bin_width(std::size_t level) const {
    const BudgetRule rule = case_.levels[level].rule;
    if (chooser(level) == Chooser::kRows)
        return SelectRows::bin_width(rule, case_.shape.n_group, level + 1 == case_.levels.size());
    if (chooser(level) == Chooser::kAttend) return SelectAttend::bin_width(rule, case_.shape.n_group);
    return 1.0 / 2048;  // the finest bin of shaders/common/select.glsl
}

std::vector<float> SelectRig::index_keys() const {
    return unpack_index_rows(case_.index_type, case_.index_dim, index_keys_->contents<std::byte>());
}
std::vector<float> SelectRig::coded_keys() const {
    const std::vector<std::uint16_t> plane = index_codes_->contents<std::uint16_t>();
    std::vector<float> values(cache_.n_rows() * case_.index_dim, kNan);
    for (std::uint32_t h = 0; h < case_.shape.n_kv_heads; ++h)
        for (std::uint32_t t = 0; t <= position_; ++t) {
            const std::size_t row = cache_.heads[h].row(t);
            const auto codes = unpack_code_row(plane, codes_, h, case_.index_dim, row);
            for (std::uint32_t r = 0; r < case_.index_dim; ++r)
                values[row * case_.index_dim + r] = value_of_code(codes_, h, case_.index_dim, r, codes[r]);
        }
    return values;
}
std::vector<float> SelectRig::index_sums() const { return index_sums_->contents<float>(); }

void SelectRig::expect_untouched() const {
    for (const auto* b : {&lists_, &scores_, &partials_, &last_queries_, &dropped_}) (*b)->expect_untouched();
    for (const auto* b : {&attend_partials_, &attended_, &act_, &lse_, &counts_, &ranks_, &through_, &cuts_})
        if (*b) (*b)->expect_untouched();
    EXPECT_EQ(controls_->contents<std::uint32_t>(), controls_of_a_choice());
    if (bins_) {
        for (const std::uint32_t bin : bins_->contents<std::uint32_t>()) EXPECT_EQ(bin, 0u);
    }
    for (const std::uint32_t counter : counters_->contents<std::uint32_t>()) EXPECT_EQ(counter, 0u);
}

reference::SelectView SelectRig::view() const {
    reference::SelectView v{cache_.view(), cache_.query,    position_,    case_.sinks,   case_.window,
                            case_.pool,    case_.index_dim, maps_values_, index_values_, {}};
    if (is_quantized(case_.shape.kv_type))  // whose keys are no halves, as the other types' are
        v.stored_extreme = [](double key) { return rounded_to_half(key); };
    return v;
}

}  // namespace winnow::test
