// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/logits.h"

#include "tests/reference/logits.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"

namespace winnow::test {
namespace {

constexpr float kEps = 1e-6f;

struct Case {
    Logits::Config config;
    std::vector<std::uint32_t> cuts;  // first rows of the ranges after the first: multiples of 64
};

class LogitsTest : public GpuTest, public ::testing::WithParamInterface<Case> {
protected:
    static void check(const Logits::Config& c, const std::vector<std::uint32_t>& cuts, bool stopped) {
        ReplicableRng rng(c.n_embd + c.n_vocab);
        const TestMatrix w(c.type, c.n_vocab, c.n_embd, rng);
        const TestActivations a(c.n_embd, rng);
        const Logits stage(device(), c);
        ASSERT_EQ(stage.n_maxima(), (c.n_vocab + stage.rows_per_group() - 1) / stage.rows_per_group());
        const vk::Buffer state = make_state(device(), 0, 0, stopped);
        const vk::Buffer act_in = make_buffer(a.words);
        const GuardedBuffer logits(device(), "logits", c.n_vocab * 4);
        const GuardedBuffer maxima(device(), "maxima", stage.n_maxima() * 4);
        std::vector<std::uint32_t> firsts{0};
        firsts.insert(firsts.end(), cuts.begin(), cuts.end());
        firsts.push_back(c.n_vocab);
        for (std::size_t i = 0; i + 1 < firsts.size(); ++i) {
            std::vector<std::byte> planes;
            const MatrixRef ref = append_planes(planes, w, firsts[i], firsts[i + 1]);
            const vk::Buffer weights = make_buffer(planes);
            vk::run_once(device(), [&](vk::Recorder& recorder) {
                stage.record(recorder, {weights, act_in, state, logits.range(), maxima.range()},
                             {ref, firsts[i], kEps, 0, 0});
            });
        }
        if (stopped) {
            logits.expect_untouched();
            maxima.expect_untouched();
            return;
        }
        const reference::Values expected = reference::logits(w.ref, a.ref, kEps);
        const std::vector<float> got = logits.contents<float>();
        expect_close(got, expected.values,
                     allowances(expected.terms, matvec_roundings(c.n_embd) + rms_roundings(c.n_embd)), "logits");
        // To the bit: the sampler relies on the maxima being logits.
        EXPECT_EQ(maxima.contents<float>(), reference::group_maxima(got, stage.rows_per_group()));
    }
};

TEST_P(LogitsTest, OfTheVocabulary) { check(GetParam().config, GetParam().cuts, false); }

std::vector<Case> cases() {
    std::vector<Case> list;
    for (const WeightType type : kAllWeightTypes) list.push_back({{is_k_type(type) ? 512u : 576u, 333, type}, {}});
    list.push_back({{64, 64, WeightType::kQ8_0}, {}});
    list.push_back({{96, 65, WeightType::kF32}, {}});
    list.push_back({{576, 1, WeightType::kQ5_0}, {}});
    list.push_back({{1536, 131, WeightType::kQ8_0}, {64}});
    list.push_back({{256, 257, WeightType::kQ6_K}, {64, 192}});
    list.push_back({{2048, 63, WeightType::kQ6_K}, {}});
    list.push_back({{576, 200, WeightType::kQ8_0, {64, 64, 4, 1, true}}, {}});  // through shared memory, as on GPUs
    list.push_back({{1536, 131, WeightType::kQ4_0, {64, 64, 2, 2, true}}, {64}});
    return list;
}

INSTANTIATE_TEST_SUITE_P(Shapes, LogitsTest, ::testing::ValuesIn(cases()), [](const auto& test) {
    const Logits::Config& c = test.param.config;
    return type_name(c.type) + "_" + std::to_string(c.n_vocab) + "x" + std::to_string(c.n_embd) +
           (c.tuning.share_act ? "_shared" : "");
});

TEST_F(LogitsTest, WritesNothingWhenStopped) { check({64, 64, WeightType::kQ8_0}, {}, true); }

}  // namespace
}  // namespace winnow::test
