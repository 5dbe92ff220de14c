// SPDX-License-Identifier: Apache-2.0
// What a calibration decides: roles, their safety check, and what `auto` is.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "models/calibration/calibrate.h"
#include "models/calibration/head_roles.h"
#include "models/calibration/moments.h"
#include "models/calibration/preset_settings.h"
#include "models/calibration/repeat_check.h"
#include "models/model.h"
#include "models/sidecar.h"
#include "runtime/vk/device.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/tiny_model.h"

namespace winnow::test {
namespace {

ModelShape shape_of(std::uint32_t n_layers) {
    ModelShape s;
    s.n_layers = n_layers;
    s.n_heads = 4;
    s.n_kv_heads = 2;
    s.head_dim = s.n_rot = 16;
    s.n_ctx_train = 4096;
    s.layers.resize(n_layers);
    return s;
}

// Scores that fall from head to head.
Calibration ranked(const ModelShape& shape) {
    Calibration c = assume_calibration(shape);
    for (auto* scores : {&c.induction, &c.echo, &c.retrieval})
        for (std::size_t h = 0; h < scores->size(); ++h) (*scores)[h] = 0.9f - 0.01f * static_cast<float>(h);
    mark_full_heads(c, shape, head_levels(c, shape), 1);
    return c;
}

TEST(RolesTest, HeadsAreAddedUntilTheCheckIsSafe) {
    const ModelShape shape = shape_of(8);
    Calibration c = ranked(shape);
    const float before = c.full_share;
    std::vector<float> shares;
    const RolesVerdict verdict = widen_until_safe(c, shape, true, [&](const Calibration& now) {
        shares.push_back(now.full_share);
        return RepeatCheck{2.0, shares.size() < 3 ? 40.0 : 2.2, {}};
    });
    EXPECT_TRUE(verdict.safe);
    EXPECT_EQ(verdict.n_widened, 2u);
    ASSERT_EQ(shares.size(), 3u);
    EXPECT_EQ(shares[0], before);
    EXPECT_GE(shares[1], shares[0]);
    EXPECT_GT(shares[2], shares[0]);
    EXPECT_EQ(c.full_share, shares[2]);
}

TEST(RolesTest, ForcedRolesAreJudgedAndLeftAlone) {
    const ModelShape shape = shape_of(8);
    Calibration c = ranked(shape);
    const std::vector<std::uint8_t> before = c.full_heads;
    const RolesVerdict verdict = widen_until_safe(c, shape, false, [](const Calibration&) {
        return RepeatCheck{2.0, 2.4, {}};
    });
    EXPECT_FALSE(verdict.safe);  // 1.2 times
    EXPECT_EQ(verdict.n_widened, 0u);
    EXPECT_EQ(c.full_heads, before);
}

TEST(RolesTest, WideningEnds) {
    const ModelShape shape = shape_of(8);
    Calibration c = ranked(shape);
    const RolesVerdict verdict = widen_until_safe(c, shape, true, [](const Calibration&) {
        return RepeatCheck{2.0, NAN, {}};
    });
    EXPECT_FALSE(verdict.safe);
    EXPECT_LE(verdict.n_widened, 6u);
}

TEST(RolesTest, HeadsThatLookNowhereAreNoStructure) {
    Calibration c = assume_calibration(shape_of(4));
    c.induction.assign(c.induction.size(), 0.01f);
    EXPECT_FALSE(has_retrieval_heads(c));
    c.retrieval[5] = 0.4f;
    EXPECT_TRUE(has_retrieval_heads(c));
}

TEST(RolesTest, AutoIsTheCheapestThatHoldsTheTargetAndCopies) {
    const PresetSetting far{"quest", 0, 400, 0.1f, 0.95f, 5e6f, 1.0f},
        missing{"fasa", 0, 128, 0.03f, 0.85f, 1e6f, 1.0f}, failing{"kascade", 0, 128, 0.03f, 0.92f, 2e6f, 30.0f},
        roles{"rtpurbo", 0.9f, 0, 0, 0.91f, 3e6f, 1.1f}, index{"hisa", 0, 512, 0.1f, 0.9f, 4e6f, 1.02f},
        unchecked{"twilight", 0.95f, 0, 0, 0.97f, 1e6f, 0};
    const std::vector<PresetSetting> all{far, missing, failing, roles, index, unchecked};
    EXPECT_EQ(best_preset(all, 0.9f, true), "rtpurbo");
    EXPECT_EQ(best_preset(all, 0.9f, false), "hisa");
    EXPECT_EQ(best_preset({far, missing, failing}, 0.9f, true), "quest");
    EXPECT_EQ(best_preset({missing, failing, unchecked}, 0.9f, true), "exact");
    EXPECT_EQ(best_preset({}, 0.9f, true), "exact");
    const std::vector<PresetSetting> cheapest = cheapest_settings(all, 0.9f);
    ASSERT_EQ(cheapest.size(), 5u);
    EXPECT_EQ(cheapest[0].preset, "twilight");
    EXPECT_EQ(cheapest[4].preset, "quest");
}

TEST(RolesTest, MixedMomentsAreWeighedAverages) {
    Moments text, random;
    text.add_keys(Eigen::MatrixXf::Constant(4, 2, 1));  // many tokens, and few: counts must not weigh
    text.add_queries(Eigen::MatrixXf::Constant(4, 2, 1));
    random.add_keys(Eigen::MatrixXf::Constant(1, 2, 3));
    random.add_queries(Eigen::MatrixXf::Constant(1, 2, 3));
    const Moments mixed = text.mixed_with(random, 0.25);
    EXPECT_NEAR(mixed.key(0, 1), 0.75 * 1 + 0.25 * 9, 1e-9);
    EXPECT_NEAR(mixed.query(1, 1), 0.75 * 1 + 0.25 * 9, 1e-9);
    EXPECT_NEAR(mixed.key_mean[0], 0.75 * 1 + 0.25 * 3, 1e-9);
    EXPECT_EQ(mixed.n_keys, 1);
    EXPECT_EQ(mixed.n_queries, 1);
}

TEST(RolesTest, TextsBeginAsTheModelExpects) {
    TokenPool pool(320);
    pool.bos = 7;
    const RepeatedText repeated = repeated_text(pool, 10, 25, 3);
    ASSERT_EQ(repeated.tokens.size(), 25u);
    EXPECT_EQ(repeated.first, 1u);
    EXPECT_EQ(repeated.tokens[0], 7);
    for (std::size_t i = repeated.first + 10; i < 25; ++i) EXPECT_EQ(repeated.tokens[i], repeated.tokens[i - 10]);
    EXPECT_EQ(repeated_text(TokenPool(320), 10, 25, 3).first, 0u);

    CalibrationInput input(320, 100);
    input.pool.bos = 7;
    const std::vector<TokenId> later = input.later_text(90, 8);
    ASSERT_EQ(later.size(), 8u);
    EXPECT_EQ(later[0], 7);
    EXPECT_EQ(later[1], input.text[90]);
    EXPECT_EQ(later[7], input.text[96]);
    EXPECT_EQ(input.later_text(95, 100).size(), 6u);
    EXPECT_TRUE(input.later_text(100, 8).empty());
}

class RolesOnDevice : public GpuTest {
protected:
    std::unique_ptr<Session> open(std::uint32_t n_ctx) const {
        SessionOptions options;
        options.n_ctx = n_ctx;
        return make_session(vk::Device::open({}), model_.source(), options);
    }
    TinyModel model_{Flavour::kLlama};
};

TEST_F(RolesOnDevice, RepeatsTellLocalHeadsFromFullOnes) {
    const auto session = open(256);
    const TokenPool pool(model_.shape().n_vocab);
    const auto check = [&](float share, const std::vector<std::string>& presets) {
        auto c = std::make_shared<Calibration>(assume_calibration(model_.shape(), share));
        return check_roles(*session, pool, c, presets, 96,
                           [](std::uint64_t done, std::uint64_t total) { EXPECT_LE(done, total); });
    };
    const RepeatCheck all = check(1, {"rtpurbo"}), none = check(0, {});
    EXPECT_GT(all.dense, 1);
    EXPECT_NEAR(all.roles, all.dense, 1e-3 * all.dense);  // every head keeps everything
    EXPECT_GT(std::abs(none.roles - none.dense), 1e-3 * none.dense);
    ASSERT_EQ(all.presets.size(), 1u);
    EXPECT_GT(all.presets[0], 1);
    EXPECT_EQ(session->n_cached(), 0u);
}

// Random weights: nothing looks back at anything.
TEST_F(RolesOnDevice, AModelWithoutStructureGetsExactScores) {
    const auto session = open(512);
    const CalibrationInput input(model_.shape().n_vocab, 1100);
    CalibrationReport report;
    const Calibration c = calibrate(*session, input, {}, report);
    EXPECT_FALSE(report.has_structure);
    EXPECT_FALSE(report.roles_safe);
    EXPECT_FALSE(c.checked);
    EXPECT_EQ(report.n_widened, 0u);
    EXPECT_EQ(c.preset, "exact");
    EXPECT_EQ(make_preset("auto", std::vector<bool>(c.n_layers), {}, &c).levels.back().mass, 0.95f);
    EXPECT_EQ(c.index_mass.size(), std::size_t{c.n_layers} * c.n_heads);  // measured all the same
    EXPECT_EQ(c.pair_recall.size(), c.index_mass.size());
    EXPECT_EQ(c.captured_mass.size(), std::size_t{c.n_layers} * c.n_kv_heads);
    ASSERT_GE(report.indexes.size(), 4u);
    EXPECT_NEAR(
        report.indexes[0].mass,
        std::accumulate(c.index_mass.begin(), c.index_mass.end(), 0.0) / static_cast<double>(c.index_mass.size()),
        1e-5);
    EXPECT_GT(report.indexes[0].retrieval_mass, 0);
    EXPECT_EQ(report.filter.n_heads, c.captured_mass.size());
    EXPECT_GT(report.filter.overlap, 0.75);  // two bits for each of the 8 dimensions of this model
    EXPECT_LE(report.filter.overlap, 1);
    EXPECT_LE(report.filter.least, report.filter.overlap);
    EXPECT_LE(report.filter.bytes_share, 1.0 / 3);
}

}  // namespace
}  // namespace winnow::test
