// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/gate_up.h"

#include "runtime/kv/step_buffers.h"
#include "tests/reference/gate_up.h"
#include "tests/support/dense_data.h"

namespace winnow::test {
namespace {

constexpr float kEps = 1e-5f;

struct Case {
    GateUp::Config config;
    std::vector<std::uint32_t> cuts;  // first rows of the ranges after the first: multiples of 64
};

class GateUpTest : public GpuTest, public ::testing::WithParamInterface<Case> {
protected:
    static void check(const GateUp::Config& c, const std::vector<std::uint32_t>& cuts, bool stopped) {
        ReplicableRng rng(c.n_embd + c.n_ff);
        const TestMatrix gate(c.type_gate, c.n_ff, c.n_embd, rng);
        const TestMatrix up(c.type_up, c.n_ff, c.n_embd, rng);
        const TestActivations a(c.n_embd, rng);
        const GateUp stage(device(), c);
        const vk::Buffer state = make_state(device(), 0, 0, stopped);
        const vk::Buffer act_in = make_buffer(a.words);
        const GuardedBuffer act_out(device(), "act_out", activation_bytes(c.n_ff));
        std::vector<std::uint32_t> firsts{0};
        firsts.insert(firsts.end(), cuts.begin(), cuts.end());
        firsts.push_back(c.n_ff);
        for (std::size_t i = 0; i + 1 < firsts.size(); ++i) {
            std::vector<std::byte> planes;
            const MatrixRef gate_ref = append_planes(planes, gate, firsts[i], firsts[i + 1]);
            const MatrixRef up_ref = append_planes(planes, up, firsts[i], firsts[i + 1]);
            const vk::Buffer weights = make_buffer(planes);
            vk::run_once(device(), [&](vk::Recorder& recorder) {
                stage.record(recorder, {weights, act_in, state, act_out.range()}, {gate_ref, up_ref, firsts[i], kEps});
            });
        }
        if (stopped) return act_out.expect_untouched();
        const reference::GatedProduct expected = reference::gate_up(gate.ref, up.ref, a.ref, c.activation, kEps);
        std::vector<double> allowance =
            allowances(expected.product.terms, matvec_roundings(c.n_embd) + rms_roundings(c.n_embd));
        for (std::size_t i = 0; i < allowance.size(); ++i) allowance[i] += kRounding * expected.gate_terms[i];
        // Nobody reads the squares of a vector that feeds no norm: they are zero.
        const std::vector<double> zeros(c.n_ff / 32, 0.0);
        expect_activations(act_out.contents<std::uint32_t>(), expected.product.values, allowance, zeros, zeros,
                           "gate_up");
    }
};

TEST_P(GateUpTest, GatesAndQuantises) { check(GetParam().config, GetParam().cuts, false); }

std::vector<Case> cases() {
    constexpr Activation kSilu = Activation::kSilu, kGelu = Activation::kGeluTanh;
    std::vector<Case> list;
    for (const WeightType type : kAllWeightTypes) {
        const bool gelu = type == WeightType::kF16 || type == WeightType::kQ4_1 || type == WeightType::kQ6_K;
        list.push_back({{is_k_type(type) ? 512u : 576u, 160, type, type, gelu ? kGelu : kSilu}, {64}});
    }
    list.push_back({{96, 32, WeightType::kQ4_0, WeightType::kQ4_0, kSilu}, {}});
    list.push_back({{1536, 96, WeightType::kQ4_0, WeightType::kQ4_1, kGelu}, {}});
    list.push_back({{2048, 64, WeightType::kQ4_K, WeightType::kQ6_K, kGelu}, {}});
    list.push_back({{256, 288, WeightType::kQ5_K, WeightType::kQ8_0, kSilu}, {64, 256}});
    // Through shared memory, as on GPUs.
    list.push_back({{1536, 96, WeightType::kQ4_0, WeightType::kQ4_0, kSilu, {64, 64, 2, 2, true}}, {}});
    list.push_back({{512, 96, WeightType::kQ4_K, WeightType::kQ6_K, kGelu, {64, 32, 4, 1, true}}, {64}});
    return list;
}

INSTANTIATE_TEST_SUITE_P(Shapes, GateUpTest, ::testing::ValuesIn(cases()), [](const auto& test) {
    const GateUp::Config& c = test.param.config;
    return type_name(c.type_gate) + "_" + type_name(c.type_up) + "_" + std::to_string(c.n_ff) + "x" +
           std::to_string(c.n_embd) + (c.activation == Activation::kSilu ? "_silu" : "_gelu") +
           (c.tuning.share_act ? "_shared" : "");
});

TEST_F(GateUpTest, WritesNothingWhenStopped) {
    check({64, 32, WeightType::kQ4_0, WeightType::kQ4_0, Activation::kSilu}, {}, true);
}

}  // namespace
}  // namespace winnow::test
