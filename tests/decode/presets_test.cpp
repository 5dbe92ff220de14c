// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "winnow/sparse.h"

namespace winnow::test {
namespace {

const std::vector<bool> kFull(12, false);
const std::vector<bool> kMixed{true, true, true, true, true, false,
                               true, true, true, true, true, false};  // five windowed, one full

template <typename Call>
void expect_refused(Call&& call, const std::string& part) {
    try {
        call();
        ADD_FAILURE() << "accepted; should say " << part;
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
        const std::string text = error.what();
        EXPECT_NE(text.find(part), std::string::npos) << text;
        EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    }
}

std::size_t count(const SparsePolicy& p, LayerKind kind) {
    return static_cast<std::size_t>(
        std::count_if(p.layers.begin(), p.layers.end(), [&](const LayerSchedule& l) { return l.kind == kind; }));
}

TEST(PresetsTest, EveryPresetPassesItsCheck) {
    for (const PresetInfo& info : sparse_presets()) {
        SCOPED_TRACE(info.name);
        for (const auto& windowed :
             {kFull, kMixed, std::vector<bool>(1), std::vector<bool>(3), std::vector<bool>(1, true)}) {
            SparsePolicy p = make_preset(info.name, windowed);
            if (p.needs_sidecar) p.index_dim = 16;  // as the sidecar sets it
            EXPECT_NO_THROW(p.check(static_cast<std::uint32_t>(windowed.size()), 3));
            for (std::size_t i = 0; i < windowed.size(); ++i)
                EXPECT_TRUE(!windowed[i] || p.layers[i].kind == LayerKind::kDense) << "windowed layer " << i;
            if (info.name == "auto") {
                EXPECT_FALSE(p.needs_sidecar || p.is_dense());
            } else {
                EXPECT_EQ(p.name, info.name);
            }
            EXPECT_EQ(p.is_dense(), info.name == "dense");
        }
    }
    EXPECT_TRUE(make_preset("off", kFull).is_dense());
}

TEST(PresetsTest, Schedules) {
    EXPECT_EQ(count(make_preset("dense", kFull), LayerKind::kDense), 12u);
    EXPECT_EQ(count(make_preset("streaming", kMixed), LayerKind::kWindowOnly), 2u);
    EXPECT_EQ(count(make_preset("exact", kFull), LayerKind::kSelect), 12u);
    EXPECT_EQ(count(make_preset("quest", kFull), LayerKind::kSelect), 10u);
    EXPECT_EQ(count(make_preset("quest", kMixed), LayerKind::kSelect), 0u);  // its two full layers are the first two
    EXPECT_EQ(count(make_preset("quest", kMixed, {.every_layer = true}), LayerKind::kSelect), 2u);
    EXPECT_EQ(make_preset("tidal", kFull, {.every_layer = true}).layers[0].kind, LayerKind::kAnchor);
    const SparsePolicy tidal = make_preset("tidal", kFull);
    EXPECT_EQ(count(tidal, LayerKind::kAnchor), 2u);
    EXPECT_EQ(count(tidal, LayerKind::kReuse), 8u);
    EXPECT_EQ(count(make_preset("delta", kFull), LayerKind::kAnchor), 3u);
    // The third full layer would be an anchor, with nobody to borrow its list.
    EXPECT_EQ(count(make_preset("delta", {false, true, false, true, false, true}), LayerKind::kDense), 6u);
    EXPECT_EQ(count(make_preset("kascade", kFull), LayerKind::kSelect),
              4u);  // of its five, two fall together in so few layers
    for (const char* name : {"tidal", "delta", "kascade", "hylra"}) {
        for (const auto& windowed : {kFull, kMixed, std::vector<bool>(40)}) {
            const SparsePolicy p = make_preset(name, windowed);
            std::uint32_t last = 0;
            for (std::uint32_t i = 0; i < p.layers.size(); ++i) {
                if (p.layers[i].kind == LayerKind::kSelect || p.layers[i].kind == LayerKind::kAnchor) last = i;
                EXPECT_TRUE(p.layers[i].kind != LayerKind::kReuse || p.layers[i].source == last);
            }
        }
    }
}

std::string scorer_words(const SelectLevel& level) {
    switch (level.scorer) {
        case Scorer::kExact: return "exact keys";
        case Scorer::kBox: return "box of " + std::to_string(level.unit);
        case Scorer::kMean: return "means of " + std::to_string(level.unit);
        case Scorer::kLowdim: return "index keys";
        case Scorer::kLowdimMean: return "block means of index keys";
        case Scorer::kCodes: return "codes of index keys";
    }
    return "";
}

// The table of `info --policies` is prose: what it says has to be what the preset does.
TEST(PresetsTest, TheTableSaysWhatThePresetsDo) {
    const auto says = [](std::string_view text, const std::string& part) {
        EXPECT_NE(text.find(part), std::string_view::npos) << "'" << text << "' should say '" << part << "'";
    };
    for (const PresetInfo& info : sparse_presets()) {
        SCOPED_TRACE(info.name);
        if (info.name == "auto") continue;
        const SparsePolicy p = make_preset(info.name, std::vector<bool>(100, false));
        if (p.levels.empty()) {
            EXPECT_TRUE(info.filter == "-") << info.filter;
        } else {
            const SelectLevel& last = p.levels.back();
            says(info.scorer, scorer_words(last));
            EXPECT_EQ(info.scorer.find("mean of heads") != std::string_view::npos, p.pool == HeadPool::kMean);
            EXPECT_EQ(info.scorer.find("each head") != std::string_view::npos, p.pool == HeadPool::kEach);
            if (p.levels.size() == 1) EXPECT_EQ(info.filter, "-");
            else says(info.filter, scorer_words(p.levels.front()));
            if (info.name == "hisa") {  // as the calibrations of today have it
                Calibration c;
                c.codes.bits.assign(1, 0);
                says(info.filter, scorer_words(make_preset("hisa", kFull, {}, &c).levels.front()));
            }
            if (last.rule == BudgetRule::kTopP) says(info.budget, fmt::format("attention mass {:.3g}", last.mass));
            else if (last.budget_share > 0)
                says(info.budget, fmt::format("top {:.0f} %, at least {}", 100 * last.budget_share, last.budget));
            else says(info.budget, fmt::format("top {}", last.budget));
        }
        const SparsePolicy usual = make_preset("exact", kFull);
        if (!p.levels.empty() && p.window != usual.window && info.name != "rtpurbo")
            says(info.budget, fmt::format("window {}", p.window));
        if (p.sink != usual.sink && p.value_skip == 0) says(info.budget, fmt::format("sink {}", p.sink));
        if (info.name == "streaming") says(info.budget, fmt::format("sink {}, window {}", p.sink, p.window));
        if (p.cosine <= 1) says(info.schedule, fmt::format("cosine < {:.1f}", p.cosine));
        // Of 100 layers: how many of the first are dense, and how many lend their selection.
        std::size_t n_dense = 0;
        while (n_dense < p.layers.size() && p.layers[n_dense].kind == LayerKind::kDense) ++n_dense;
        if (n_dense == 1) says(info.schedule, "first layer dense");
        else if (n_dense > 1 && n_dense < 100) says(info.schedule, fmt::format("first {} layers dense", n_dense));
        const std::size_t n_reuse = count(p, LayerKind::kReuse),
                          n_lend = count(p, LayerKind::kSelect) + count(p, LayerKind::kAnchor);
        if (n_reuse > 0) says(info.schedule, fmt::format("{} anchors lend", n_lend));
        else EXPECT_EQ(info.schedule.find("lend"), std::string_view::npos);
        if (count(p, LayerKind::kWindowOnly) == 100 && p.value_skip == 0)
            says(info.schedule, "every layer window only");
    }
}

TEST(PresetsTest, SidecarsAreAskedFor) {
    for (const PresetInfo& info : sparse_presets()) {
        const SparsePolicy p = make_preset(info.name, kFull);
        const bool indexed = std::any_of(p.levels.begin(), p.levels.end(), [](const SelectLevel& l) {
            return l.scorer == Scorer::kLowdim || l.scorer == Scorer::kLowdimMean;
        });
        EXPECT_EQ(p.needs_sidecar, indexed || info.name == "duo" || info.name == "razor") << info.name;
        if (indexed) expect_refused([&] { p.check(12, 3); }, "index_dim");
    }
}

TEST(PresetsTest, OverridesReachThePolicy) {
    const SparsePolicy p = make_preset("twilight", kFull, {.mass = 0.9f, .sink = 16, .window = 128, .min_ctx = 0});
    EXPECT_EQ(p.levels.back().rule, BudgetRule::kTopP);
    EXPECT_EQ(p.levels.back().mass, 0.9f);
    EXPECT_EQ(p.levels.front().budget_share, 0.25f);
    EXPECT_EQ(p.sink, 16u);
    EXPECT_EQ(p.window, 128u);
    EXPECT_EQ(p.min_ctx, 0u);
    const SparsePolicy budget = make_preset("kascade", kFull, {.budget = 777});
    EXPECT_EQ(budget.levels.back().budget, 777u);
    EXPECT_EQ(budget.levels.back().budget_share, 0.0f);
    for (const SelectLevel& level :
         make_preset("twilight", kFull, {.mass = 1}).levels) {  // nothing is left out on the way
        EXPECT_EQ(level.mass, 1.0f);
        EXPECT_EQ(level.budget, 0u);
        EXPECT_EQ(level.rule, BudgetRule::kTopP);
    }
    for (const SelectLevel& level : make_preset("hisa", kFull, {.budget = 20000}).levels)
        EXPECT_EQ(level.budget, 20000u);
}

// Codes let through what holds the mass, however many tokens that are, but no more than a budget has a use for; of
// means of blocks the tokens stay limited.
TEST(PresetsTest, MassReachesTheFilterByCodes) {
    Calibration c;
    c.codes.bits.assign(1, 0);
    const auto filter = [&](const SparseOverrides& overrides, bool codes) {
        return make_preset("hisa", kFull, overrides, codes ? &c : nullptr).levels.front();
    };
    for (const float mass : {0.5f, 0.9f, 0.99f}) {
        const SelectLevel by_mass = filter({.mass = mass}, true);
        EXPECT_EQ(by_mass.rule, BudgetRule::kTopP);
        EXPECT_FLOAT_EQ(by_mass.mass, 1 - (1 - mass) / 4);
        EXPECT_EQ(by_mass.budget, 0u);
        EXPECT_EQ(by_mass.budget_share, 0);
        const SelectLevel limited = filter({.mass = mass, .budget = 4000}, true);
        EXPECT_EQ(limited.rule, BudgetRule::kTopK);
        EXPECT_EQ(limited.budget, 9000u);
        const SelectLevel blocks = filter({.mass = mass}, false);
        EXPECT_EQ(blocks.rule, BudgetRule::kTopK);
        EXPECT_EQ(blocks.budget, 8192u);
    }
    EXPECT_EQ(filter({.mass = 1}, true).mass, 1);
    EXPECT_EQ(filter({}, true).rule, BudgetRule::kTopK);
}

TEST(PresetsTest, RefusesBadNumbers) {
    expect_refused([] { make_preset("qest", kFull); }, "quest");
    for (const float mass : {0.0f, 1.5f, std::numeric_limits<float>::quiet_NaN()}) {
        SparsePolicy p = make_preset("exact", kFull);
        p.levels.back().mass = mass;
        expect_refused([&] { p.check(12, 3); }, "mass");
    }
    for (const float mass : {0.0f, 1.5f})
        expect_refused([&] { make_preset("exact", kFull, {.mass = mass}).check(12, 3); }, "mass");
    expect_refused([] { make_preset("quest", kFull, {.budget = 60}).check(12, 3); }, "below sink + window");
    expect_refused([] { make_preset("quest", kFull, {.window = 4000}).check(12, 3); }, "below sink + window");
    expect_refused([] { make_preset("quest", kFull).check(11, 3); }, "layers");
    // Codes: a coarse level of tokens, which need tables of all heads.
    const auto codes = [](std::size_t n_heads) {
        SparsePolicy p = make_preset("hisa", kFull);
        p.index_dim = 8;
        p.levels[0].scorer = Scorer::kCodes;
        p.levels[0].unit = 1;
        p.index_codes = std::make_shared<IndexCodes>(
            IndexCodes{std::vector<std::uint8_t>(n_heads * 8, 2), std::vector<float>(n_heads * 8 * kCodeTerms, 1)});
        return p;
    };
    EXPECT_NO_THROW(codes(12 * 3).check(12, 3));
    expect_refused([&] { codes(11 * 3).check(12, 3); }, "codes of");
    SparsePolicy without = codes(12 * 3);
    without.index_codes = nullptr;
    expect_refused([&] { without.check(12, 3); }, "no index_codes");
    for (const std::size_t turned : {0, 1}) {  // the same units twice, and not from codes to keys
        SparsePolicy twice = codes(12 * 3);
        twice.levels[1 - turned].scorer = turned == 0 ? Scorer::kCodes : Scorer::kLowdim;
        expect_refused([&] { twice.check(12, 3); }, "coarse to fine");
    }
}

TEST(PresetsTest, RefusesBadSchedules) {
    const auto refused = [](const std::function<void(SparsePolicy&)>& spoil, const std::string& part) {
        SparsePolicy p = make_preset("tidal", kFull);
        spoil(p);
        expect_refused([&] { p.check(12, 3); }, part);
    };
    refused([](SparsePolicy& p) { p.layers[4].source = 7; }, "comes later");
    refused([](SparsePolicy& p) { p.layers[4].source = 4; }, "comes later");
    refused([](SparsePolicy& p) { p.layers[4].source = 0; }, "selects nothing");
    refused([](SparsePolicy& p) { p.layers[4].source = 3; }, "selects nothing");
    refused([](SparsePolicy& p) { p.layers[4].head_map = {0, 1}; }, "head map");
    refused([](SparsePolicy& p) { p.layers[4].head_map = {0, 1, 3}; }, "head map");
    refused([](SparsePolicy& p) { p.levels.clear(); }, "no level");
    refused([](SparsePolicy& p) { p.levels[0].unit = 64; }, "token scorers");
    refused([](SparsePolicy& p) { p.levels[0].scorer = Scorer::kBox; }, "units of");
    refused([](SparsePolicy& p) { p.levels[0].budget = 0; }, "top-k needs a budget");
    refused([](SparsePolicy& p) { p.levels[0].budget_share = 1.5f; }, "budget share");
    refused([](SparsePolicy& p) { p.levels.push_back(p.levels[0]); }, "nest");
    refused([](SparsePolicy& p) { p.levels[0].threshold = -1; }, "threshold");
    refused([](SparsePolicy& p) { p.value_skip = -1; }, "value skip");
    refused([](SparsePolicy& p) { p.cosine = std::numeric_limits<float>::quiet_NaN(); }, "cosine");
    refused([](SparsePolicy& p) { p.index_dim = 9; }, "index_dim of 9");
    expect_refused([] { make_preset("streaming", kFull, {.window = 0}).check(12, 3); }, "window is 0");
    for (const char* name : {"off", "exact", "streaming"})
        expect_refused([&] { make_preset(name, kFull, {.compensate = true}).check(12, 3); }, "--sparse-compensation");
}

}  // namespace
}  // namespace winnow::test
