// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/select_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <string>

#include "bench/support/attention_setup.h"
#include "bench/support/check.h"
#include "bench/support/check_choice.h"
#include "bench/support/registry.h"
#include "runtime/attention/indexer_score.h"
#include "runtime/vk/upload.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kSinks = 4, kWindow = 64;
constexpr float kMass = 0.26f;

std::uint32_t word(float x) { return std::bit_cast<std::uint32_t>(x); }

// Even noise for scores, and denominators to match: 5 % of the tokens are kept, by their number or by their mass. The
// time includes a copy of a few words and its barrier, which make the list due again.
void run(benchmark::State& state, const AttentionCase& at, BudgetRule rule, bool waits) {
    Bench& b = Bench::get();
    const Shape& s = at.shape;
    const std::uint32_t n = at.n_tokens;
    const AttentionSetup on(at);
    SelectRows::Config c{.n_heads = s.n_heads,
                         .n_kv_heads = s.n_kv_heads,
                         .level = {},
                         .score_stride = IndexerScore::score_stride(n + 1)};
    c.level.rule = rule;
    c.level.mass = kMass;
    c.n_splits = c.n_score_splits = select_splits(b.device().is_cpu(), s.n_kv_heads, n);
    if (waits) {
        c.waits = true;
        c.n_splits = waiting_of(c.n_splits, most_waiting(b.device(), s.n_kv_heads));
        if (c.n_splits == 0) return state.SkipWithError("skipped: too few processors, or the driver does not tell");
    }
    const SelectRows stage(b.device(), c);
    const std::uint32_t group = s.n_heads / s.n_kv_heads;
    std::vector<float> scores(std::size_t{s.n_heads} * c.score_stride);
    std::vector<std::uint32_t> denominators, policy_words, control_words;
    std::minstd_rand random(1);
    for (float& x : scores) x = 6 * (static_cast<float>(random()) / 2147483647.0f - 0.5f);
    const float denominator = std::log(static_cast<float>(n) * std::sinh(3.0f) / 3);
    // e^x over [-3, 3] has the mean sinh(3) / 3; of the mass the upper twentieth, from x = 2.7 on, holds a quarter.
    for (std::uint32_t i = 0; i < s.n_kv_heads * (c.n_score_splits + 1) * group; ++i)
        denominators.insert(denominators.end(), {word(denominator), 0});
    const vk::Buffer score_rows = f32_buffer(scores), partials = b.words(denominators);
    const vk::Buffer lists = b.buffer(std::uint64_t{s.n_kv_heads} * n * 4);
    const vk::Buffer ranks = b.buffer(SelectRows::rank_bytes(s.n_kv_heads, c.score_stride));
    const vk::Buffer bins = b.zeros(SelectRows::bin_bytes(rule, s.n_kv_heads, group));
    const vk::Buffer through = b.buffer(SelectRows::through_bytes(rule, s.n_kv_heads, group, c.n_splits));
    const vk::Buffer cuts = b.zeros(s.n_kv_heads * sizeof(SelectCut));
    const std::uint32_t budget = rule == BudgetRule::kTopK ? n / 20 : n;
    for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) {
        policy_words.insert(policy_words.end(), {word(kMass), 0, budget, 0, 0});
        control_words.insert(control_words.end(), {WINNOW_LIST_PENDING, 0, 0, 0});
    }
    const vk::Buffer policies = b.words(policy_words), pending = b.words(control_words);
    const vk::Buffer controls = b.words(control_words);
    const vk::Buffer dropped = b.zeros(s.n_heads * 4);
    SelectPush push{};
    push.table_stride = on.table_stride();
    push.list_stride = n;
    push.sink_tokens = kSinks;
    push.window = kWindow;
    b.run(
        state, SelectRows::bytes_moved(c, n, n / 20),
        [&](vk::Recorder& r, std::uint32_t) {
            r.copy({pending, 0, pending.bytes()}, {controls, 0, controls.bytes()});  // as indexer_score leaves it
            r.full_barrier();
            const SelectRows::Buffers buffers{on.state, on.tables(), lists, lists,   score_rows,
                                              partials, ranks,       bins,  through, on.counters,
                                              controls, policies,    cuts,  dropped};
            stage.record(r, buffers, push, 0);
            if (stage.n_dispatches() == 1) return;
            r.barrier();
            stage.record(r, buffers, push, 1);
        },
        [&] {
            const auto all = vk::read_back_as<std::uint32_t>(b.device(), lists);
            const auto control = vk::read_back_as<SelectControl>(b.device(), controls);
            for (const std::uint32_t h : first_and_last(s.n_kv_heads)) {
                const ScoredRows rows{std::span<const float>(scores).subspan(std::size_t{h} * group * c.score_stride),
                                      c.score_stride,
                                      std::vector<double>(group, denominator),
                                      std::vector<double>(group),
                                      1,
                                      kSinks,
                                      n - kWindow};
                const auto list =
                    std::span<const std::uint32_t>(all).subspan(std::size_t{h} * n, std::min(control[h].n_list, n));
                const std::string wrong = check_choice(rows, c.level, budget, list, SelectRows::bin_width(rule, group));
                if (!wrong.empty()) return wrong;
            }
            return std::string();
        });
}

}  // namespace

void register_select_rows() {
    for (const bool waits : {false, true})
        for (const BudgetRule rule : {BudgetRule::kTopK, BudgetRule::kTopP})
            register_attention(std::string(waits ? "select_rows_waiting" : "select_rows") +
                                   (rule == BudgetRule::kTopK ? "_top_k" : "_top_p"),
                               {},
                               [=](benchmark::State& state, const AttentionCase& at) { run(state, at, rule, waits); });
}

}  // namespace winnow::bench
