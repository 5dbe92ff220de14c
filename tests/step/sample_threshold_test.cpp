// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/sample_threshold.h"

#include <algorithm>
#include <functional>

#include "tests/reference/logits.h"
#include "tests/reference/sample_threshold.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/random.h"
#include "tests/support/sampler_rig.h"

namespace winnow::test {
namespace {

class SampleThresholdTest : public GpuTest {
protected:
    static float run(const std::vector<float>& maxima, const SampleInput& in) {
        const SampleThreshold stage(device());
        const StepState state = state_of(in);
        const vk::Buffer state_buffer = make_buffer(std::vector<StepState>{state});
        const vk::Buffer maxima_buffer = make_buffer(maxima);
        const GuardedBuffer threshold(device(), "threshold", 4);
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            stage.record(recorder, {state_buffer, maxima_buffer, threshold.range()},
                         {0, static_cast<std::uint32_t>(maxima.size())});
        });
        if (in.at.stopped) threshold.expect_untouched();
        return threshold.contents<float>()[0];
    }
    static float expected(const std::vector<float>& maxima, const SampleInput& in) {
        return reference::sample_threshold(maxima, in.options, in.recent.size());
    }
    static SampleInput top_k(std::uint32_t k) {
        SampleInput in;
        in.options.top_k = k;
        return in;
    }
};

TEST_F(SampleThresholdTest, IsTheKthLargest) {
    for (const std::uint32_t n : {1u, 2u, 31u, 255u, 256u, 257u, 4096u}) {
        ReplicableRng rng(n);
        const std::vector<float> maxima = rng.normals(n, -1, 4);
        for (const std::uint32_t k : {1u, 2u, 40u, n / 2 + 1, n - 1, n, n + 1, 0u}) {
            const SampleInput in = top_k(k);
            EXPECT_EQ(run(maxima, in), expected(maxima, in)) << n << " maxima, top-k " << k;
        }
    }
}

TEST_F(SampleThresholdTest, TiesSignsAndExtremes) {
    std::vector<float> maxima;
    for (const float x : {0.0f, 1.0f, -1.0f, 1e-38f, -1e-38f, 3e38f, -2.9e38f, 12.5f, 1.0000001f, 0.99999994f})
        maxima.insert(maxima.end(), 3, x);
    for (std::uint32_t k = 1; k <= maxima.size(); ++k) EXPECT_EQ(run(maxima, top_k(k)), expected(maxima, top_k(k))) << k;
    const std::vector<float> equal(500, -7.25f);
    EXPECT_EQ(run(equal, top_k(1)), -7.25f);
    EXPECT_EQ(run(equal, top_k(500)), -7.25f);
}

TEST_F(SampleThresholdTest, GreedyNeedsTheLargestOnly) {
    ReplicableRng rng;
    const std::vector<float> maxima = rng.normals(300);
    SampleInput in = top_k(40);
    in.options.temperature = 0;
    EXPECT_EQ(run(maxima, in), *std::max_element(maxima.begin(), maxima.end()));
}

// Whatever the penalty does to recent tokens, top_k logits stay at or above the threshold.
TEST_F(SampleThresholdTest, AllowsForPenalties) {
    ReplicableRng rng;
    const std::vector<float> logits = rng.normals(1000, 1, 3);
    const std::vector<float> maxima = reference::group_maxima(logits, 4);
    for (const float penalty : {1.0f, 1.3f, 0.8f}) {
        for (const std::uint32_t n_recent : {0u, 5u, 64u, 200u, 300u}) {
            SampleInput in = top_k(20);
            in.options.repeat_penalty = penalty;
            in.options.repeat_last_n = 100;
            // The worst case: the largest ones.
            std::vector<std::int32_t> order(logits.size());
            for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
            std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] < logits[b]; });
            in.recent.assign(order.end() - n_recent, order.end());
            const float got = run(maxima, in);
            EXPECT_EQ(got, expected(maxima, in)) << penalty << " " << n_recent;
            const std::vector<double> after = reference::penalised(logits, in.options, in.recent);
            const auto n_left = std::count_if(after.begin(), after.end(), [&](double x) { return x >= double{got}; });
            EXPECT_GE(n_left, 20) << penalty << " " << n_recent;
        }
    }
}

TEST_F(SampleThresholdTest, WritesNothingWhenStopped) {
    SampleInput in = top_k(1);
    in.at.stopped = true;
    run({1, 2, 3}, in);
}

}  // namespace
}  // namespace winnow::test
