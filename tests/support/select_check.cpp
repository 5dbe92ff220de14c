// SPDX-License-Identifier: Apache-2.0
// Selected sets against the slow oracle: order-free, with ties falling either way.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/reference/select_rows.h"
#include "tests/reference/summarize_block.h"
#include "tests/support/code_rows.h"
#include "tests/support/index_rows.h"
#include "tests/support/select_rig.h"

namespace winnow::test {
namespace {

constexpr double kScoreRounding = 5e-5;
constexpr double kMassTolerance = 1e-5;  // rounding of the weights, and of 2^-31 for each row
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double clamped(double pooled) { return std::clamp(pooled, -65535.0 / 2048, 0.0); }  // the bins end there

// Weight of the weakest row that the oracle keeps.
double cut_of(const reference::Level& scored, SelectLevel level, std::uint32_t budget, double mass_change) {
    if (level.rule == BudgetRule::kTopP && level.mass < 1)
        level.mass = std::min(static_cast<float>(double{level.mass} + mass_change), 0.9999999f);
    if (level.threshold > 0) level.threshold *= static_cast<float>(1 - 4 * mass_change);
    const std::vector<std::size_t> kept = keep_rows(scored, level, budget);
    return kept.empty() ? kInfinity : clamped(scored.rows[kept.back()].pooled);
}

// `rankings`: one that all heads share, or one of each head, which all decide for themselves.
void expect_rule(const std::vector<reference::Level>& rankings, const SelectLevel& level, std::uint32_t budget,
                 const std::vector<bool>& kept, double bin) {
    std::vector<double> lowest, highest;
    for (const reference::Level& ranking : rankings) {
        lowest.push_back(std::min(cut_of(ranking, level, budget, kMassTolerance), 0.0));
        highest.push_back(cut_of(ranking, level, budget, -kMassTolerance));
    }
    std::uint64_t n_kept = 0, n_all = 0;
    std::vector<double> mass;
    for (const reference::Level& ranking : rankings) mass.insert(mass.end(), ranking.sure.begin(), ranking.sure.end());
    for (std::size_t i = 0; i < kept.size(); ++i) {
        const reference::Row& row = rankings[0].rows[i];
        n_all += row.n_tokens;
        bool any = false;
        std::size_t head = 0;
        for (std::size_t r = 0; r < rankings.size(); ++r) {
            const double weight = clamped(rankings[r].rows[i].pooled);
            any = any || weight >= lowest[r] - bin;
            if (!kept[i]) {
                EXPECT_LE(weight, highest[r] + bin) << "dropped unit " << row.unit << " ranking " << r;
            }
            for (const double w : rankings[r].rows[i].log_weight)
                mass[head++] += kept[i] ? row.n_tokens * std::exp(w) : 0;
        }
        if (!kept[i]) continue;
        EXPECT_TRUE(any) << "kept unit " << row.unit << " is below every cut";
        n_kept += row.n_tokens;
    }
    const std::uint64_t limit = budget == 0 ? n_all : budget;
    EXPECT_LT(n_kept, rankings.size() * (limit + level.unit)) << "over the budget";
    if (level.threshold > 0) return;
    const std::uint64_t least = std::min(limit, n_all);
    if (level.rule == BudgetRule::kTopK || (level.rule == BudgetRule::kTopP && level.mass >= 1)) {
        EXPECT_GE(n_kept, least);
        return;
    }
    EXPECT_GE(n_kept, std::min<std::uint64_t>(level.budget_min, least));
    if (n_kept >= least) return;
    for (const double m : mass) EXPECT_GE(m, double{level.mass} - kMassTolerance);
}

}  // namespace

void SelectRig::expect_index_key() const {
    const std::uint32_t dim = case_.index_dim;
    const std::size_t map = std::size_t{dim} * case_.shape.head_dim;
    const std::vector<float> keys = index_keys();
    for (std::uint32_t h = 0; h < case_.shape.n_kv_heads; ++h) {
        const auto expected = reference::index_key(
            cache_.view(), h, position_, std::span<const float>(maps_values_).subspan((2 * h + 1) * map, map));
        const std::size_t row = cache_.heads[h].row(position_);
        double largest = 0;
        for (const double x : expected.value) largest = std::max(largest, std::abs(x));
        for (std::size_t r = 0; r < dim; ++r)  // how it is stored, and head_dim roundings
            EXPECT_NEAR(keys[row * dim + r], expected.value[r],
                        index_storing_error(case_.index_type, expected.value[r], largest) +
                            0x1p-24 * case_.shape.head_dim * expected.terms[r]);
    }
}

// The newest token's are of its key as it was stored; the others' are those that were there.
void SelectRig::expect_codes(const std::vector<float>& keys) const {
    const std::uint32_t dim = case_.index_dim;
    const std::vector<std::uint16_t> plane = index_codes_->contents<std::uint16_t>();
    for (std::uint32_t h = 0; h < case_.shape.n_kv_heads; ++h) {
        for (std::uint32_t t = 0; t <= position_; ++t) {
            const std::size_t row = cache_.heads[h].row(t);
            const std::vector<std::uint32_t> got = unpack_code_row(plane, codes_, h, dim, row);
            for (std::uint32_t r = 0; r < dim; ++r)
                ASSERT_EQ(got[r], nearest_code(codes_, h, dim, r, keys[row * dim + r]))
                    << "kv head " << h << " token " << t << " dimension " << r;
        }
    }
}

void SelectRig::expect_right() const {
    SCOPED_TRACE(fmt::format("{} levels {} position {}", case_.shape.text(), case_.levels.size(), position_));
    reference::SelectView v = view();
    std::vector<float> index_values, coded_values;
    if (case_.index_dim != 0) {
        expect_index_key();
        index_values = index_keys();
        v.index_keys = index_values;
        if (has_codes()) {
            expect_codes(index_values);
            coded_values = coded_keys();
            v.coded_keys = coded_values;
        }
    }
    const std::uint32_t middle_end = v.middle_end();
    const std::vector<float> dropped_share = dropped_->contents<float>();
    for (std::uint32_t h = 0; h < case_.shape.n_kv_heads; ++h) {
        if (cache_.heads[h].window != 0) {
            for (std::size_t i = 0; i < case_.levels.size(); ++i)
                EXPECT_TRUE(list(i, h).empty()) << "windowed head " << h;
            continue;
        }
        std::vector<std::uint32_t> parents;
        std::vector<double> dropped;
        for (std::size_t i = 0; i < case_.levels.size(); ++i) {
            SCOPED_TRACE(fmt::format("kv head {} level {}", h, i));
            const SelectLevel& level = case_.levels[i];
            const SelectControl c = control(i, h);
            EXPECT_EQ(c.middle_end, middle_end);
            EXPECT_EQ(c.n_selected_at, position_ + 1);
            const std::vector<std::uint32_t> got = list(i, h);
            EXPECT_TRUE(std::adjacent_find(got.begin(), got.end(), std::greater_equal<>()) == got.end())
                << "not ascending";
            const reference::Level scored =
                indexer_score(v, level, h, i == 0 ? nullptr : &parents, i == 0 ? 0 : case_.levels[i - 1].unit, dropped);
            std::vector<bool> kept(scored.rows.size());
            std::vector<std::size_t> places;
            std::size_t n_tokens = 0;
            for (std::size_t r = 0; r < scored.rows.size(); ++r) {
                const reference::Row& row = scored.rows[r];
                kept[r] = std::binary_search(got.begin(), got.end(), row.unit);
                if (!kept[r]) continue;
                places.push_back(r);
                n_tokens += row.n_tokens;
            }
            EXPECT_EQ(places.size(), got.size()) << "entries that are no candidates";
            EXPECT_EQ(c.n_tokens, n_tokens);
            const auto share = static_cast<std::uint32_t>(level.budget_share * static_cast<float>(position_ + 1));
            std::vector<reference::Level> rankings{scored};
            if (case_.pool == HeadPool::kEach) {
                rankings.clear();
                for (std::uint32_t g = 0; g < v.n_group(); ++g) rankings.push_back(head_ranking(scored, g));
            }
            expect_rule(rankings, level, level.budget == 0 ? 0 : std::max(level.budget, share), kept,
                        kScoreRounding + bin_width(i));
            dropped = dropped_mass(scored, places);
            if (i + 2 == case_.levels.size()) {  // the next level has read it, nobody has written it since
                // Rows of the bin that is cut through count as equal; it holds little. One workgroup knows them.
                const double mass_tolerance = 2 * kMassTolerance + bin_width(i) * (select_rows_[i] ? 0.1 : 0.01);
                for (std::uint32_t g = 0; g < v.n_group(); ++g)
                    EXPECT_NEAR(std::exp(double{dropped_share[h * v.n_group() + g]} - scored.lse[g]),
                                std::exp(dropped[g] - scored.lse[g]), mass_tolerance)
                        << "mass of what was dropped, query head " << g;
            }
            parents = got;
        }
    }
}

}  // namespace winnow::test
