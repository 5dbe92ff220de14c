// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "models/calibration/head_roles.h"
#include "models/calibration/index_fit.h"
#include "models/calibration/index_quality.h"
#include "models/calibration/layer_similarity.h"
#include "models/calibration/preset_settings.h"
#include "models/gguf_writer.h"
#include "models/model_config.h"
#include "models/sidecar.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_gguf.h"

namespace winnow::test {
namespace {

using Eigen::MatrixXd;
using Eigen::MatrixXf;
using Eigen::VectorXd;

ModelShape shape_of(std::uint32_t n_layers, std::uint32_t head_dim, RopePairing pairing = RopePairing::kNorm) {
    ModelShape s;
    s.n_layers = n_layers;
    s.n_heads = 4;
    s.n_kv_heads = 2;
    s.head_dim = s.n_rot = head_dim;
    s.n_ctx_train = 4096;
    s.rope_pairing = pairing;
    s.layers.resize(n_layers);
    return s;
}

MatrixXd random_matrix(std::mt19937& random, Eigen::Index rows, Eigen::Index cols) {
    std::normal_distribution<double> normal;
    return MatrixXd::NullaryExpr(rows, cols, [&] { return normal(random); });
}

// Positive definite, with a few directions that dominate.
MatrixXd random_moment(std::mt19937& random, Eigen::Index d) {
    VectorXd scale(d);
    for (Eigen::Index i = 0; i < d; ++i) scale[i] = std::exp(-0.2 * static_cast<double>(i));
    const MatrixXd x = random_matrix(random, d, d) * scale.asDiagonal();
    return x * x.transpose() + 0.01 * MatrixXd::Identity(d, d);
}

// E |q . k - (A q) . (B k)|^2 of independent q, k with these moments.
double index_error(const IndexMoments& m, const MatrixXd& product) {
    const MatrixXd rest = MatrixXd::Identity(m.query.rows(), m.query.rows()) - product;
    return (m.query * rest * m.key * rest.transpose()).trace();
}

TEST(CalibrationTest, FitIsTheBestProjection) {
    std::mt19937 random(7);
    const IndexMoments m{random_moment(random, 16), random_moment(random, 16)};
    const double all = index_error(m, MatrixXd::Zero(16, 16));
    for (const std::uint32_t dim : {4u, 8u, 15u}) {
        const IndexFit fit = fit_index(m, dim);
        const MatrixXd product = (fit.a.transpose() * fit.b).cast<double>();
        const double error = index_error(m, product);
        EXPECT_NEAR(error / all, fit.residual, 1e-4) << dim;
        for (int i = 0; i < 100; ++i) {  // nothing near it is better
            const MatrixXd a = fit.a.cast<double>() + 0.02 * random_matrix(random, dim, 16);
            const MatrixXd b = fit.b.cast<double>() + 0.02 * random_matrix(random, dim, 16);
            EXPECT_GE(index_error(m, a.transpose() * b), error * (1 - 1e-6));
        }
    }
    EXPECT_LT(fit_index(m, 16).residual, 1e-9);
}

TEST(CalibrationTest, FitSurvivesMomentsWithoutFullRank) {
    std::mt19937 random(8);
    const MatrixXd x = random_matrix(random, 3, 16);
    const IndexFit fit = fit_index({x.transpose() * x, x.transpose() * x}, 8);
    EXPECT_TRUE(fit.a.allFinite() && fit.b.allFinite());
    EXPECT_LT(fit.residual, 1e-3);
    const IndexFit none = fit_index({MatrixXd::Zero(16, 16), MatrixXd::Zero(16, 16)}, 8);
    EXPECT_TRUE(none.a.allFinite() && none.b.allFinite());
}

TEST(CalibrationTest, SpreadMomentsAreThoseOfRotatedVectors) {
    constexpr std::uint32_t kPositions = 300;
    for (const RopePairing pairing : {RopePairing::kNorm, RopePairing::kNeox}) {
        for (const std::uint32_t n_rot : {8u, 16u}) {
            ModelShape shape = shape_of(1, 16, pairing);
            shape.n_rot = n_rot;
            const RopeSpace rope(shape, shape.layers[0]);
            std::mt19937 random(9);
            const MatrixXf vectors = (random_matrix(random, 12, 16) + MatrixXd::Constant(12, 16, 0.5)).cast<float>();
            Moments before, after;
            before.add_keys(vectors);
            before.add_queries(vectors);
            for (std::uint32_t n = 0; n < kPositions; ++n) {
                for (Eigen::Index i = 0; i < vectors.rows(); ++i) {
                    MatrixXf one = vectors.row(i);
                    rope.rotate(one, n, 1);
                    after.add_keys(one);
                    if (n >= kPositions / 2) after.add_queries(one);
                }
            }
            const IndexMoments analytic = spread_moments(before, rope, kPositions);
            const VectorXd mean = after.key_mean / after.n_keys;
            const MatrixXd key = after.key / after.n_keys - mean * mean.transpose(),
                           query = after.query / after.n_queries;
            EXPECT_LT((analytic.key - key).norm(), 2e-4 * key.norm());
            EXPECT_LT((analytic.query - query).norm(), 2e-4 * query.norm());
            const IndexMoments mixed = spread_moments_up_to(before, rope, 4096);
            const IndexMoments whole = spread_moments(before, rope, 4096), half = spread_moments(before, rope, 2048);
            EXPECT_LT((mixed.key - (whole.key + half.key) / 2).norm(), 1e-9 * key.norm());
        }
    }
}

TEST(CalibrationTest, RotationIsThatOfTheModel) {
    ModelShape shape = shape_of(1, 8, RopePairing::kNeox);
    shape.layers[0].rope_freq_base = 100;
    shape.layers[0].rope_freq_scale = 0.5f;
    const RopeSpace rope(shape, shape.layers[0]);
    MatrixXf x = MatrixXf::Zero(2, 8);
    x.col(1).setOnes();  // pair (1, 5)
    rope.rotate(x, 6, 1);
    const double angle = 7 * 0.5 * std::pow(100.0, -2.0 / 8);
    EXPECT_NEAR(x(1, 1), std::cos(angle), 1e-6);
    EXPECT_NEAR(x(1, 5), std::sin(angle), 1e-6);
    rope.rotate(x, 6, -1);
    EXPECT_NEAR(x(1, 1), 1, 1e-6);
    EXPECT_NEAR(x(1, 5), 0, 1e-6);
}

TEST(CalibrationTest, PairsWithTheMostEnergyAreChosen) {
    const ModelShape shape = shape_of(1, 16, RopePairing::kNeox);
    VectorXd energy = VectorXd::Constant(16, 0.1);
    energy[3] = 5;   // pair (3, 11)
    energy[14] = 2;  // pair (6, 14)
    const std::vector<std::uint32_t> dims =
        best_pair_dims({MatrixXd::Identity(16, 16), energy.asDiagonal()}, RopeSpace(shape, shape.layers[0]), 4);
    EXPECT_EQ(dims, (std::vector<std::uint32_t>{3, 11, 6, 14}));
}

TEST(CalibrationTest, RepeatScoresFindCopiesAndSuccessors) {
    const std::vector<std::uint32_t> rows{5, 12, 25};  // the first lies in the first copy and does not count
    Rows p = Rows::Zero(3, 26);
    p(1, 2) = 0.5f;              // its own earlier copy
    p(1, 3) = 0.25f;             // the successor
    p(2, 15) = p(2, 5) = 0.25f;  // both copies
    const RepeatScores scores = score_repeats(p, rows, 10);
    EXPECT_FLOAT_EQ(scores.echo, 0.5f);
    EXPECT_FLOAT_EQ(scores.induction, 0.125f);
    // A token that begins every text, copied by none: places are one later, and the first itself is no copy.
    Rows shifted = Rows::Zero(2, 26);
    shifted(0, 3) = 0.5f;
    shifted(1, 0) = 1;
    const RepeatScores later = score_repeats(shifted, {13, 20}, 10, 1);
    EXPECT_FLOAT_EQ(later.echo, 0.25f);
    EXPECT_FLOAT_EQ(later.induction, 0);
}

TEST(CalibrationTest, ExactScoresSelectTheBest) {
    std::mt19937 random(10);
    const Rows q = random_matrix(random, 4, 16).cast<float>(), k = random_matrix(random, 600, 16).cast<float>();
    const std::vector<std::uint32_t> rows{300, 400, 500, 599};
    const Rows p = attention(q, k, rows);
    EXPECT_NEAR(p.row(0).sum(), 1, 1e-5);
    EXPECT_EQ(p.row(0).tail(299).maxCoeff(), 0);
    const IndexFit exact{MatrixXf::Identity(16, 16), MatrixXf::Identity(16, 16), 0};
    const SelectionQuality best = measure_selection(p, index_scores(q, k, exact), rows, {4, 64}, 32);
    EXPECT_EQ(best.n_rows, 4u);
    EXPECT_NEAR(best.mass, 1, 1e-5);
    EXPECT_NEAR(best.recall, 1, 1e-5);
    const SelectionQuality worst = measure_selection(p, -index_scores(q, k, exact), rows, {4, 64}, 32);
    EXPECT_LT(worst.mass, 0.1);
    EXPECT_GT(measure_selection(p, index_scores(q, k, exact, true), rows, {4, 64}, 32).mass, 0.99);
    // True scores need no correction; scores that are too sharp are flattened.
    float captured = 0;
    fit_temperature({p}, {index_scores(q, k, exact)}, rows, {4, 64}, 0.9f, &captured);
    EXPECT_GE(captured, 0.9f);
    IndexFit sharp = exact;
    sharp.a *= 2;
    const float factor = fit_temperature({p}, {index_scores(q, k, sharp)}, rows, {4, 64}, 0.9f, &captured);
    EXPECT_NEAR(factor, 0.5f, 0.06f);
    EXPECT_GE(captured, 0.89f);
}

TEST(CalibrationTest, AnchorsAreWhereLayersChange) {
    // Eight layers; layers 1-3 look at the same tokens, 4-7 at others; in 4-7 the kv heads are swapped after the first.
    const ModelShape shape = shape_of(8, 16);
    const std::vector<std::uint32_t> rows{300, 399};
    LayerSimilarity similarity(shape, rows, {4, 64}, 8);
    for (std::uint32_t layer = 0; layer < 8; ++layer) {
        for (std::uint32_t h = 0; h < 2; ++h) {
            const std::uint32_t look = layer < 4 ? h : (layer == 4 ? 2 + h : 3 - h);
            Rows p = Rows::Constant(2, 400, 1e-4f);
            for (std::uint32_t t = 0; t < 8; ++t) p.col(20 + 40 * look + t).setConstant(0.1f);
            if (layer == 0) p.setConstant(1e-3f);
            similarity.add(layer, h, p);
        }
    }
    Calibration c = assume_calibration(shape);
    similarity.choose_anchors(c, 2);
    EXPECT_EQ(c.anchors, (std::vector<std::uint32_t>{1, 4}));
    EXPECT_EQ(c.head_maps[2 * 2 + 0], 0u);
    EXPECT_EQ(c.head_maps[5 * 2 + 0], 1u);
    EXPECT_EQ(c.head_maps[5 * 2 + 1], 0u);
    EXPECT_GT(c.similarity[1 * 8 + 3], 0.99f);
    EXPECT_LT(c.similarity[1 * 8 + 5], 0.1f);
    check_calibration(c, shape);
    similarity.choose_anchors(c, 100);  // more than there are layers
    EXPECT_LE(c.anchors.size(), 7u);
    const SparsePolicy p = make_preset("kascade", std::vector<bool>(8), {}, &c);
    EXPECT_NO_THROW(p.check(8, 2));
}

TEST(CalibrationTest, LayersRefreshWhereListsStopOverlapping) {
    // Of 332 candidates 41 make a list. Layers 0-2 and 3-5 agree to nine tenths with the first of them, with heads
    // swapped in layer 2.
    const ModelShape shape = shape_of(6, 16);
    const std::vector<std::uint32_t> rows{399};
    LayerSimilarity similarity(shape, rows, {4, 64}, 8);
    for (std::uint32_t layer = 0; layer < 6; ++layer) {
        for (std::uint32_t h = 0; h < 2; ++h) {
            const std::uint32_t look = (layer < 3 ? 0 : 2) + (layer == 2 ? 1 - h : h);
            Rows p = Rows::Constant(1, 400, 1e-4f);
            for (std::uint32_t t = 0; t < 41; ++t) p(0, 10 + 80 * look + t) = 0.01f;
            for (std::uint32_t t = 0; t < 4 && layer % 3 != 0; ++t)
                std::swap(p(0, 10 + 80 * look + t), p(0, 60 + 80 * look + t));
            similarity.add(layer, h, p);
        }
    }
    Calibration c = assume_calibration(shape);
    similarity.choose_refreshes(c, 0.85);
    EXPECT_EQ(c.refresh_layers, (std::vector<std::uint32_t>{0, 3}));
    EXPECT_EQ(c.refresh_maps[2 * 2 + 0], 1u);
    EXPECT_EQ(c.refresh_maps[4 * 2 + 0], 0u);
    EXPECT_NEAR(c.overlap[0 * 6 + 2], 37.0 / 41, 1e-5);
    EXPECT_NEAR(c.overlap[0 * 6 + 3], 0, 1e-5);
    check_calibration(c, shape);
    const SparsePolicy p = make_preset("hylra", std::vector<bool>(6), {}, &c);
    EXPECT_EQ(p.layers[0].kind, LayerKind::kAnchor);
    EXPECT_EQ(p.layers[2].kind, LayerKind::kReuse);
    EXPECT_EQ(p.layers[2].source, 0u);
    EXPECT_EQ(p.layers[2].head_map, (std::vector<std::uint32_t>{1, 0}));
    EXPECT_EQ(p.layers[3].kind, LayerKind::kAnchor);
    EXPECT_EQ(p.levels.back().budget, 2048u);
    EXPECT_NO_THROW(p.check(6, 2));
    similarity.choose_refreshes(c, 0.95);  // so well agree only those whose lists are the same
    EXPECT_EQ(c.refresh_layers, (std::vector<std::uint32_t>{0, 1, 3, 4}));
    const SparsePolicy close = make_preset("hylra", std::vector<bool>(6), {}, &c);
    EXPECT_EQ(close.layers[0].kind, LayerKind::kDense);  // layer 1 has a list of its own, so nobody borrows this one
    EXPECT_EQ(close.layers[1].kind, LayerKind::kAnchor);
    similarity.choose_refreshes(c, 0);  // everybody does
    EXPECT_EQ(c.refresh_layers, (std::vector<std::uint32_t>{0}));
}

TEST(CalibrationTest, OfAsFewRefreshesThoseWithTheMostOverlapAreChosen) {
    // Layer 1 agrees with 0 as far as it must, and entirely with 2: three layers, two refreshes either way.
    const ModelShape shape = shape_of(3, 16);
    LayerSimilarity similarity(shape, {399}, {4, 64}, 8);
    for (std::uint32_t layer = 0; layer < 3; ++layer) {
        for (std::uint32_t h = 0; h < 2; ++h) {
            Rows p = Rows::Constant(1, 400, 1e-4f);
            const std::uint32_t begin = layer == 0 ? 20 : (layer == 1 ? 24 : 28);  // 0 and 2 share too little
            for (std::uint32_t t = 0; t < 41; ++t) p(0, begin + t) = 0.01f;
            if (layer == 1) std::swap(p(0, 24), p(0, 65));  // nearer to layer 2
            similarity.add(layer, h, p);
        }
    }
    Calibration c = assume_calibration(shape);
    similarity.choose_refreshes(c, 0.85);
    EXPECT_EQ(c.refresh_layers, (std::vector<std::uint32_t>{0, 1}));
}

TEST(CalibrationTest, RolesFollowTheScores) {
    const ModelShape shape = shape_of(8, 16);  // 32 query heads, 16 kv heads
    Calibration c = assume_calibration(shape);
    for (auto* scores : {&c.induction, &c.echo, &c.retrieval})
        for (std::size_t h = 0; h < scores->size(); ++h) (*scores)[h] = 0.001f * static_cast<float>(h % 7);
    c.induction[9] = 0.9f;   // layer 2, head 1: kv head 0
    c.retrieval[31] = 0.8f;  // layer 7, head 3: kv head 1
    const std::vector<float> levels = head_levels(c, shape);
    mark_full_heads(c, shape, levels, level_of_share(shape, levels, 2 / 16.0f));
    EXPECT_EQ(c.full_heads[2 * 2 + 0], 1);
    EXPECT_EQ(c.full_heads[7 * 2 + 1], 1);
    EXPECT_FLOAT_EQ(c.full_share, 2 / 16.0f);
    mark_full_heads(c, shape, levels, level_of_share(shape, levels, 1));
    EXPECT_FLOAT_EQ(c.full_share, 1);
    mark_full_heads(c, shape, levels, level_of_share(shape, levels, 0));
    EXPECT_FLOAT_EQ(c.full_share, 0);
}

TEST(CalibrationTest, PresetsTakeWhatTheyNeed) {
    const ModelShape shape = shape_of(6, 16);
    Calibration c = assume_calibration(shape);
    c.temperatures.assign(c.temperatures.size(), 0.5f);
    c.preset = "rtpurbo";
    const std::vector<bool> windowed{false, true, false, false, false, false};
    for (const char* name : {"rtpurbo", "hisa", "fasa", "duo", "razor", "kascade", "hylra", "auto"}) {
        SCOPED_TRACE(name);
        EXPECT_TRUE(uses_calibration(name));
        const SparsePolicy p = make_preset(name, windowed, {}, &c);
        EXPECT_FALSE(p.needs_sidecar);
        EXPECT_NO_THROW(p.check(6, 2));
        EXPECT_EQ(p.layers[1].kind, LayerKind::kDense);
    }
    EXPECT_EQ(make_preset("auto", windowed, {}, &c).name, "rtpurbo");
    const SparsePolicy rtpurbo = make_preset("rtpurbo", windowed, {}, &c);
    EXPECT_EQ(rtpurbo.local_heads.size(), 12u);
    EXPECT_EQ(rtpurbo.local_heads[0], c.full_heads[0] == 0 ? 1 : 0);
    EXPECT_FLOAT_EQ((*rtpurbo.index_maps)[0], 0.5f * c.index_maps[0]);     // A
    EXPECT_FLOAT_EQ((*rtpurbo.index_maps)[8 * 16], c.index_maps[8 * 16]);  // B
    const SparsePolicy fasa = make_preset("fasa", windowed, {}, &c);
    EXPECT_FLOAT_EQ((*fasa.index_maps)[3 * 16 + 3], 1);  // assume_calibration: dimensions in order
    EXPECT_TRUE(make_preset("duo", windowed).needs_sidecar);
}

TEST(CalibrationTest, PresetsTakeMeasuredSettingsUnlessToldOtherwise) {
    const ModelShape shape = shape_of(6, 16);
    Calibration c = assume_calibration(shape);
    c.preset = "rtpurbo";
    c.mass = 0.9f;
    c.settings = {{"rtpurbo", 0.95f, 0, 0, 0.91f, 0, 0},
                  {"hisa", 0, 512, 0.125f, 0.9f, 0, 0},
                  {"quest", 0, 8, 0.25f, 0.9f, 0, 0}};
    const std::vector<bool> full(6);
    EXPECT_FLOAT_EQ(make_preset("rtpurbo", full, {}, &c).levels.back().mass, 0.95f);
    EXPECT_FLOAT_EQ(make_preset("auto", full, {}, &c).levels.back().mass, 0.95f);
    EXPECT_FLOAT_EQ(make_preset("rtpurbo", full, {.mass = 0.8f}, &c).levels.back().mass, 0.8f);
    const SparsePolicy hisa = make_preset("hisa", full, {}, &c);
    EXPECT_EQ(hisa.levels.back().budget, 512u);
    EXPECT_FLOAT_EQ(hisa.levels.back().budget_share, 0.125f);
    EXPECT_EQ(hisa.levels.front().scorer, Scorer::kCodes);
    EXPECT_EQ(hisa.levels.front().budget, 4608u);
    EXPECT_FLOAT_EQ(hisa.levels.front().budget_share, 2.25f * 0.125f);
    EXPECT_EQ(make_preset("hisa", full, {.budget = 20000}, &c).levels.front().budget, 45000u);
    // A sidecar of before has no codes: whole blocks are filtered then.
    Calibration old = c;
    old.codes = {};
    const SparsePolicy blocks = make_preset("hisa", full, {}, &old);
    EXPECT_EQ(blocks.levels.front().scorer, Scorer::kLowdimMean);
    EXPECT_EQ(blocks.levels.front().budget, 8192u);
    EXPECT_FLOAT_EQ(blocks.levels.front().budget_share, 0.25f);
    EXPECT_NO_THROW(blocks.check(6, 2));
    const SparsePolicy asked = make_preset("hisa", full, {.budget = 1024}, &c);
    EXPECT_EQ(asked.levels.back().budget, 1024u);
    EXPECT_EQ(asked.levels.back().budget_share, 0);
    const SparsePolicy quest = make_preset("quest", full, {}, &c);
    EXPECT_EQ(quest.levels.back().budget, quest.sink + quest.window);  // no budget is smaller
    EXPECT_NO_THROW(quest.check(6, 2));
    EXPECT_EQ(make_preset("exact", full, {}, &c).levels.back().mass, make_preset("exact", full).levels.back().mass);
}

TEST(CalibrationTest, SettingsReachTheTargetByTheAudit) {
    const TemporaryFolder folder;
    TinyOptions tiny;
    tiny.n_layers = 3;  // the first two are dense in both presets
    const std::vector<std::byte> bytes = make_tiny_gguf(tiny);
    const std::string path = folder.write("tiny.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    const ValidationLog log;
    SessionOptions options;
    options.device = log.device_options();
    std::unique_ptr<Session> session = Session::open(path, options);
    std::vector<std::int32_t> text;
    for (std::int32_t i = 0; i < 240; ++i)
        text.push_back((i * 37 + i / 7) % static_cast<std::int32_t>(session->shape().n_vocab));
    session->prefill(std::span(text).first(236));
    const auto settings = find_settings(*session, {"quest", "twilight"},
                                        std::make_shared<Calibration>(assume_calibration(session->shape())),
                                        std::span(text).subspan(236), 0.9f, [](std::uint64_t, std::uint64_t) {});
    EXPECT_EQ(session->n_cached(), 236u);
    ASSERT_EQ(settings.size(), 2u);
    EXPECT_EQ(settings[0].mass, 0);
    EXPECT_GE(settings[0].budget, 68u);  // sinks and window
    EXPECT_GE(settings[1].mass, 0.95f);  // the preset's own
    EXPECT_GE(settings[1].captured, 0.89f);
    // Blocks of so flat a model hold little: the dearest setting, as it is, not the 1 of an audit that saw nothing.
    EXPECT_GT(settings[0].captured, 0.5f);
    EXPECT_LT(settings[0].captured, 0.999f);
    for (const PresetSetting& s : settings) EXPECT_GT(s.bytes_per_token, 0) << s.preset;
    session.reset();
    log.expect_silent();
}

class SidecarTest : public ::testing::Test {
protected:
    void SetUp() override {
        write("model.gguf", make_tiny_gguf());
        const GgufFile file = GgufFile::open(folder_.path("model.gguf"));
        hash_ = model_hash(file);
        shape_ = read_model_shape(file);
        c_ = assume_calibration(shape_);
        c_.preset = "rtpurbo";
        c_.mass = 0.9f;
        path_ = sidecar_beside(folder_.path("model.gguf"));
    }
    void write(const std::string& name, const std::vector<std::byte>& bytes) const {
        folder_.write(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    std::vector<std::byte> sidecar_bytes() const {
        write_sidecar(path_, c_, hash_);
        std::ifstream in(path_, std::ios::binary);
        const std::string text{std::istreambuf_iterator<char>(in), {}};
        const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
        return {bytes, bytes + text.size()};
    }
    void expect_refused(const std::string& part) const {
        try {
            read_sidecar(path_, hash_, shape_);
            ADD_FAILURE() << "accepted; should say " << part;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kBadFile);
            EXPECT_THAT(error.what(), ::testing::HasSubstr(part));
            EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
        }
    }
    template <typename Change>
    void expect_refused_after(const std::string& part, Change&& change) {
        SCOPED_TRACE(part);
        const Calibration kept = c_;
        change(c_);
        write_sidecar(path_, c_, hash_);
        c_ = kept;
        expect_refused(part);
    }

    TemporaryFolder folder_;
    std::filesystem::path path_;
    std::string hash_;
    ModelShape shape_;
    Calibration c_;
};

TEST_F(SidecarTest, RoundTrip) {
    c_.anchors = {1};
    c_.settings = {{"rtpurbo", 0.93f, 0, 0, 0.9f, 0, 0}, {"kascade", 0, 400, 0.1f, 0.92f, 3e6f, 1.25f}};
    c_.checked = c_.quick = true;
    c_.refresh_layers = {0};
    c_.refresh_maps = {0, 1, 1, 0};
    c_.overlap = {1, 0.5f, 0, 1};
    const std::size_t n_heads = std::size_t{shape_.n_layers} * shape_.n_heads;
    c_.index_mass.assign(n_heads, 0.75f);
    c_.index_recall.assign(n_heads, 0.5f);
    c_.pair_mass.assign(n_heads, 0.625f);
    c_.captured_mass.assign(std::size_t{shape_.n_layers} * shape_.n_kv_heads, -1);
    write_sidecar(path_, c_, hash_);
    const Calibration read = read_sidecar(path_, hash_, shape_);
    EXPECT_EQ(read.index_maps, c_.index_maps);
    EXPECT_EQ(read.index_pairs, c_.index_pairs);
    EXPECT_EQ(read.temperatures, c_.temperatures);
    EXPECT_EQ(read.codes.bits, c_.codes.bits);
    EXPECT_EQ(read.codes.curves, c_.codes.curves);
    EXPECT_EQ(read.full_heads, c_.full_heads);
    EXPECT_EQ(read.anchors, c_.anchors);
    EXPECT_EQ(read.head_maps, c_.head_maps);
    EXPECT_EQ(read.preset, c_.preset);
    EXPECT_EQ(read.full_share, c_.full_share);
    ASSERT_EQ(read.settings.size(), 2u);
    EXPECT_EQ(read.settings[1].preset, "kascade");
    EXPECT_EQ(read.settings[0].mass, 0.93f);
    EXPECT_EQ(read.settings[1].budget, 400u);
    EXPECT_EQ(read.settings[1].budget_share, 0.1f);
    EXPECT_EQ(read.settings[1].captured, 0.92f);
    EXPECT_EQ(read.settings[1].bytes_per_token, 3e6f);
    EXPECT_EQ(read.settings[1].repeat_ratio, 1.25f);
    EXPECT_TRUE(read.checked);
    EXPECT_TRUE(read.quick);
    EXPECT_EQ(read.refresh_layers, c_.refresh_layers);
    EXPECT_EQ(read.refresh_maps, c_.refresh_maps);
    EXPECT_EQ(read.overlap, c_.overlap);
    EXPECT_EQ(read.index_mass, c_.index_mass);
    EXPECT_EQ(read.index_recall, c_.index_recall);
    EXPECT_EQ(read.pair_mass, c_.pair_mass);
    EXPECT_TRUE(read.pair_recall.empty());  // not measured
    EXPECT_EQ(read.captured_mass, c_.captured_mass);
    const GgufFile file = GgufFile::open(folder_.path("model.gguf"));
    EXPECT_NE(find_calibration(file, shape_), nullptr);
    std::filesystem::remove(path_);
    setenv("XDG_CACHE_HOME", folder_.path("").c_str(), 1);
    EXPECT_EQ(find_calibration(file, shape_), nullptr);
    const std::filesystem::path cached = sidecar_in_cache(hash_);
    std::filesystem::create_directories(cached.parent_path());
    write_sidecar(cached, c_, hash_);
    EXPECT_NE(find_calibration(file, shape_), nullptr);
    unsetenv("XDG_CACHE_HOME");
}

// What a calibration of before wrote: everything but codes.
TEST_F(SidecarTest, SidecarsWithoutCodesStillLoad) {
    c_.codes = {};
    write_sidecar(path_, c_, hash_);
    const Calibration read = read_sidecar(path_, hash_, shape_);
    EXPECT_TRUE(read.codes.empty());
    EXPECT_EQ(read.index_maps, c_.index_maps);
    EXPECT_EQ(make_preset("hisa", std::vector<bool>(shape_.n_layers), {}, &read).levels[0].scorer, Scorer::kLowdimMean);
}

TEST_F(SidecarTest, HashTellsModelsApart) {
    TinyOptions other;
    other.seed = 2;
    write("other.gguf", make_tiny_gguf(other));
    EXPECT_NE(model_hash(GgufFile::open(folder_.path("other.gguf"))), hash_);
    write("same.gguf", make_tiny_gguf());
    EXPECT_EQ(model_hash(GgufFile::open(folder_.path("same.gguf"))), hash_);
    write_sidecar(path_, c_, "0123456789abcdef");
    expect_refused("another model");
}

TEST_F(SidecarTest, EveryTruncationIsRefused) {
    const std::vector<std::byte> bytes = sidecar_bytes();
    for (std::size_t n = 0; n + 32 < bytes.size(); n += 1 + n / 8) {
        write(path_.filename().string(), {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n)});
        EXPECT_THROW(read_sidecar(path_, hash_, shape_), Error) << n;
    }
}

TEST_F(SidecarTest, FlippedBytesNeverCrash) {
    const std::vector<std::byte> bytes = sidecar_bytes();
    std::mt19937 random(11);
    for (int i = 0; i < 400; ++i) {
        std::vector<std::byte> bad = bytes;
        for (int k = 0; k < 3; ++k)
            bad[random() % std::min<std::size_t>(bad.size(), 4096)] = static_cast<std::byte>(random());
        write(path_.filename().string(), bad);
        try {
            check_calibration(read_sidecar(path_, hash_, shape_), shape_);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kBadFile);
        }
    }
}

TEST_F(SidecarTest, HostileContentsAreRefused) {
    expect_refused_after("index_maps", [](Calibration& c) { c.index_maps.pop_back(); });
    expect_refused_after("not finite", [](Calibration& c) { c.index_maps[5] = NAN; });
    expect_refused_after("not finite", [](Calibration& c) { c.temperatures[0] = 1e30f; });
    expect_refused_after("codes of", [](Calibration& c) { c.codes.curves.pop_back(); });
    expect_refused_after("codes of", [](Calibration& c) { c.codes.bits = {}; });
    expect_refused_after("bits too many", [](Calibration& c) { c.codes.bits[0] = 7; });
    expect_refused_after("bits too many", [](Calibration& c) {  // no dimension has too many, their word has
        for (std::uint32_t r = 0; r < c.index_dim; ++r) c.codes.bits[r] = 6;
    });
    expect_refused_after("ascend", [](Calibration& c) { c.codes.curves[1] *= -1; });
    expect_refused_after("ascend", [](Calibration& c) { c.codes.curves[0] = NAN; });
    expect_refused_after("index_dim", [](Calibration& c) { c.index_dim = 0; });
    expect_refused_after("index_dim", [](Calibration& c) { c.index_dim = 12; });
    expect_refused_after("another shape", [](Calibration& c) { c.n_layers = 3; });
    expect_refused_after("dimension", [](Calibration& c) { c.index_pairs[0] = 32; });
    expect_refused_after("kv head", [](Calibration& c) { c.head_maps[1] = 2; });
    expect_refused_after("anchors", [](Calibration& c) { c.anchors = {1, 1}; });
    expect_refused_after("anchors", [](Calibration& c) { c.anchors = {9}; });
    expect_refused_after("anchors", [](Calibration& c) { c.refresh_layers = {1, 0}; });
    expect_refused_after("head maps", [](Calibration& c) { c.refresh_layers = {0}; });
    expect_refused_after("refresh_maps", [](Calibration& c) { c.refresh_maps = {0}; });
    expect_refused_after("index quality", [](Calibration& c) { c.pair_recall = {0.5f}; });
    expect_refused_after("not finite", [this](Calibration& c) {
        c.captured_mass.assign(std::size_t{shape_.n_layers} * shape_.n_kv_heads, NAN);
    });
    expect_refused_after("setting of quest", [](Calibration& c) { c.settings = {{"quest", 0, 400, 0.1f, NAN, 0, 0}}; });
    expect_refused_after("setting of quest", [](Calibration& c) {
        c.settings = {{"quest", 0, 400, 0.1f, 0.9f, 0, NAN}};
    });
    expect_refused_after("preset", [](Calibration& c) { c.preset = "auto"; });
    expect_refused_after("preset", [](Calibration& c) { c.preset = "qest"; });
    expect_refused_after("share", [](Calibration& c) { c.mass = 2; });
    write("model.winnow.gguf", make_tiny_gguf());  // a model, not a calibration
    expect_refused("is no calibration");
    std::filesystem::remove(path_);
    std::filesystem::create_directory(path_);
    EXPECT_THROW(read_sidecar(path_, hash_, shape_), Error);
}

}  // namespace
}  // namespace winnow::test
