// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/matvec_add.h"

#include "runtime/kv/step_buffers.h"
#include "tests/reference/matvec_add.h"
#include "tests/support/dense_data.h"

namespace winnow::test {
namespace {

constexpr float kEps = 1e-5f;
constexpr std::uint32_t kCounter = 2;  // of four; the others belong to somebody else

struct Case {
    WeightType type;
    std::uint32_t n_in, n_out;
    std::vector<std::uint32_t> cuts;  // first rows of the ranges after the first: multiples of 64
    bool post_norm = false;
    MatvecTuning tuning{};  // empty: the device's
    std::uint32_t most_in = 0;
};

class MatvecAddTest : public GpuTest, public ::testing::WithParamInterface<Case> {
protected:
    // Everything that a case binds, with random contents.
    struct Data {
        Data(const Case& c, bool stopped)
            : n_in(c.n_in),
              rng(c.n_in * 7 + c.n_out),
              w(c.type, c.n_out, c.n_in, rng),
              a(c.n_in, rng),
              x_before(rng.normals(c.n_out, 0, 2)),
              next_norm(rng.normals(c.n_out, 1, 0.3f)),
              post_norm(rng.normals(c.n_out, 1, 0.3f)),
              state(make_state(device(), 0, 0, stopped)),
              x(device(), "x", std::as_bytes(std::span(x_before))),
              act_out(device(), "act_out", activation_bytes(c.n_out)),
              raw(device(), "raw_product", c.n_out * 4),
              counters(make_buffer(std::vector<std::uint32_t>{7, 8, 0, 9})),
              act_in(make_buffer(a.words)),
              next_norm_buffer(make_buffer(next_norm)),
              post_norm_buffer(make_buffer(post_norm)) {
            std::vector<std::uint32_t> firsts{0};
            firsts.insert(firsts.end(), c.cuts.begin(), c.cuts.end());
            weights.reserve(firsts.size());
            for (std::size_t i = 0; i < firsts.size(); ++i) {
                std::vector<std::byte> planes;
                const std::uint32_t end = i + 1 < firsts.size() ? firsts[i + 1] : c.n_out;
                const MatrixRef ref = append_planes(planes, w, firsts[i], end);
                weights.push_back(make_buffer(planes));
                ranges.push_back({weights.back(), ref, firsts[i]});
            }
        }
        void run(const MatvecAdd& stage) const {
            vk::run_once(device(), [&](vk::Recorder& recorder) {
                for (const MatrixRange& range : ranges) {
                    stage.record(recorder,
                                 {range.where, act_in, state, x.range(), next_norm_buffer, act_out.range(),
                                  post_norm_buffer, raw.range(), counters},
                                 {range.ref, range.first_row, kEps, kCounter, n_in / 32});
                }
            });
        }
        std::uint32_t n_in;
        ReplicableRng rng;
        TestMatrix w;
        TestActivations a;
        std::vector<float> x_before, next_norm, post_norm;
        std::vector<vk::Buffer> weights;
        std::vector<MatrixRange> ranges;
        vk::Buffer state;
        GuardedBuffer x, act_out, raw;
        vk::Buffer counters, act_in, next_norm_buffer, post_norm_buffer;
    };
};

TEST_P(MatvecAddTest, AddsTheProduct) {
    const Case& c = GetParam();
    const MatvecAdd stage(device(),
                          MatvecAdd::config_for(device(), c.n_in, c.most_in, c.n_out, c.type, c.post_norm, c.tuning));
    const Data d(c, false);
    const std::vector<double> post = c.post_norm ? to_doubles(d.post_norm) : std::vector<double>{};
    // The product and its sum with x; with a post-norm its rms over n_out values, and two products.
    const double roundings = matvec_roundings(c.n_in) + 1 + (c.post_norm ? rms_roundings(c.n_out * 32) + 2 : 0);
    std::vector<double> x = to_doubles(d.x_before);
    for (int step = 0; step < (c.post_norm ? 2 : 1); ++step) {  // a second time: the counter is ready again
        d.run(stage);
        const reference::Residual expected =
            reference::matvec_add(d.w.ref, d.a.ref, x, to_doubles(d.next_norm), post, kEps);
        expect_residual(d.x, d.act_out, expected, roundings, "matvec_add");
        x = to_doubles(d.x.contents<float>());
    }
    EXPECT_EQ(download<std::uint32_t>(d.counters), (std::vector<std::uint32_t>{7, 8, 0, 9}));
    if (!c.post_norm) d.raw.expect_untouched();
}

std::vector<Case> cases() {
    std::vector<Case> list;
    for (const WeightType type : kAllWeightTypes) {
        list.push_back({type, is_k_type(type) ? 256u : 576u, 160, {64}});
        if (!is_k_type(type) && type != WeightType::kQ4_1 && type != WeightType::kQ5_0)
            list.push_back({type, 96, 96, {}});
    }
    list.push_back({WeightType::kQ4_0, 64, 32, {}});
    list.push_back({WeightType::kQ4_1, 1536, 288, {64, 256}});
    list.push_back({WeightType::kQ8_0, 1536, 64, {}});
    list.push_back({WeightType::kQ4_K, 2048, 64, {}});
    list.push_back({WeightType::kQ6_K, 512, 192, {128}});
    list.push_back({WeightType::kBF16, 64, 96, {}, true});
    list.push_back({WeightType::kQ4_0, 576, 64, {}, true});
    list.push_back({WeightType::kQ5_0, 96, 160, {64}, true});
    list.push_back({WeightType::kQ4_0, 64, 5376, {}, true});  // fits 32 KiB of shared memory once, not twice
    list.push_back({WeightType::kQ6_K, 256, 320, {64, 128}, true});
    // Through shared memory, as on GPUs; room for rows that are longer, of which there may be others.
    list.push_back({WeightType::kQ4_0, 1536, 160, {64}, false, {64, 32, 2, 2, true}});
    list.push_back({WeightType::kQ5_1, 576, 96, {}, false, {64, 32, 1, 2, true}, 2048});
    list.push_back({WeightType::kQ6_K, 512, 192, {}, true, {64, 32, 4, 1, true}});
    return list;
}

INSTANTIATE_TEST_SUITE_P(Shapes, MatvecAddTest, ::testing::ValuesIn(cases()), [](const auto& test) {
    const Case& c = test.param;
    return type_name(c.type) + "_" + std::to_string(c.n_out) + "x" + std::to_string(c.n_in) +
           (c.post_norm ? "_post_norm" : "") + (c.tuning.share_act ? "_shared" : "");
});

using MatvecAddStoppedTest = MatvecAddTest;
TEST_P(MatvecAddStoppedTest, WritesNothing) {
    const Case& c = GetParam();
    const MatvecAdd stage(device(),
                          MatvecAdd::config_for(device(), c.n_in, c.most_in, c.n_out, c.type, c.post_norm, c.tuning));
    const Data d(c, true);
    d.run(stage);
    EXPECT_EQ(d.x.contents<float>(), d.x_before);
    EXPECT_EQ(download<std::uint32_t>(d.counters), (std::vector<std::uint32_t>{7, 8, 0, 9}));
    d.act_out.expect_untouched();
    d.raw.expect_untouched();
}
INSTANTIATE_TEST_SUITE_P(Shapes, MatvecAddStoppedTest,
                         ::testing::Values(Case{WeightType::kQ4_0, 64, 32, {}},
                                           Case{WeightType::kQ5_0, 96, 160, {64}, true}));

}  // namespace
}  // namespace winnow::test
