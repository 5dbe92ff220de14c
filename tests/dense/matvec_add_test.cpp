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
    std::uint32_t n_in, n_out;
    std::vector<std::uint32_t> cuts;  // first rows of the ranges after the first: multiples of 64
    bool post_norm = false;
};

class MatvecAddTest : public GpuTest, public ::testing::WithParamInterface<WeightType> {
protected:
    // Everything that a case binds, with random contents.
    struct Data {
        Data(const Case& c, WeightType type, bool stopped)
            : rng(c.n_in * 7 + c.n_out),
              w(type, c.n_out, c.n_in, rng),
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
        void run(const MatvecAdd& stage, const Case& c) const {
            vk::run_once(device(), [&](vk::Recorder& recorder) {
                for (const MatrixRange& range : ranges) {
                    stage.record(recorder,
                                 {range.where, act_in, state, x.range(), next_norm_buffer, act_out.range(),
                                  post_norm_buffer, raw.range(), counters},
                                 {range.ref, range.first_row, c.n_in, kEps, kCounter});
                }
            });
        }
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

    static void check(const Case& c) {
        SCOPED_TRACE(::testing::Message() << c.n_out << " x " << c.n_in << (c.post_norm ? " post-norm" : ""));
        const MatvecAdd stage(device(), {c.n_in, c.n_out, GetParam(), c.post_norm});
        const Data d(c, GetParam(), false);
        const std::vector<double> post = c.post_norm ? to_doubles(d.post_norm) : std::vector<double>{};
        // The product, its sum with x; the post-norm's rms over n_out by lanes of a subgroup of 8, the root, two products.
        const double roundings = matvec_roundings(c.n_in) + 1 + (c.post_norm ? rms_roundings(c.n_out * 32) + 2 : 0);
        std::vector<double> x = to_doubles(d.x_before);
        for (int step = 0; step < (c.post_norm ? 2 : 1); ++step) {  // a second time: the counter is ready again
            d.run(stage, c);
            const reference::Residual expected =
                reference::matvec_add(d.w.ref, d.a.ref, x, to_doubles(d.next_norm), post, kEps);
            expect_residual(d.x, d.act_out, expected, roundings, "matvec_add");
            x = to_doubles(d.x.contents<float>());
        }
        EXPECT_EQ(download<std::uint32_t>(d.counters), (std::vector<std::uint32_t>{7, 8, 0, 9}));
        if (!c.post_norm) d.raw.expect_untouched();
    }
};

TEST_P(MatvecAddTest, AddsTheProduct) {
    const bool thorough = GetParam() == WeightType::kQ4_0 || GetParam() == WeightType::kQ8_0;
    if (is_k_type(GetParam())) {
        check({256, 96, {}});
        check({2048, 64, {}});
    } else {
        check({96, 96, {}});
        check({576, 160, {64}});
    }
    if (thorough) {
        check({64, 32, {}});
        check({1536, 288, {64, 256}});
    }
    if (GetParam() == WeightType::kQ4_K) check({512, 192, {128}});
}

TEST_P(MatvecAddTest, NormsTheProductFirst) {
    if (GetParam() == WeightType::kQ4_0) {
        check({96, 160, {64}, true});
        check({576, 64, {}, true});
    } else if (GetParam() == WeightType::kQ6_K) {
        check({256, 320, {64, 128}, true});
    } else if (GetParam() == WeightType::kBF16) {
        check({64, 96, {}, true});
    }
}

TEST_P(MatvecAddTest, WritesNothingWhenStopped) {
    const Case c{is_k_type(GetParam()) ? 256u : 96u, 96, {}};
    const MatvecAdd stage(device(), {c.n_in, c.n_out, GetParam(), false});
    const Data d(c, GetParam(), true);
    d.run(stage, c);
    EXPECT_EQ(d.x.contents<float>(), d.x_before);
    d.act_out.expect_untouched();
    d.raw.expect_untouched();
}

INSTANTIATE_TEST_SUITE_P(Types, MatvecAddTest, ::testing::ValuesIn(kAllWeightTypes),
                         [](const auto& test) { return type_name(test.param); });

}  // namespace
}  // namespace winnow::test
