// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/gate_up.h"

#include "runtime/kv/step_buffers.h"
#include "tests/reference/gate_up.h"
#include "tests/support/dense_data.h"

namespace winnow::test {
namespace {

constexpr float kEps = 1e-5f;

class GateUpTest : public GpuTest, public ::testing::WithParamInterface<WeightType> {
protected:
    // n_ff rows, cut into ranges at `cuts`, multiples of 64.
    static void check(const GateUp::Config& c, const std::vector<std::uint32_t>& cuts, bool stopped = false) {
        SCOPED_TRACE(::testing::Message() << c.n_ff << " x " << c.n_embd << ", up " << type_name(c.type_up));
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
        expect_activations(act_out.contents<std::uint32_t>(), expected.product.values, allowance, zeros, zeros, "gate_up");
    }
};

TEST_P(GateUpTest, GatesAndQuantises) {
    const WeightType type = GetParam();
    const bool narrow = type == WeightType::kF16 || type == WeightType::kQ5_1;
    const std::uint32_t n_embd = is_k_type(type) ? 512 : (narrow ? 96 : 576);
    const Activation activation =
        type == WeightType::kQ4_1 || type == WeightType::kQ6_K ? Activation::kGeluTanh : Activation::kSilu;
    check({n_embd, 160, type, type, activation}, {64});
}

TEST_P(GateUpTest, OtherShapes) {
    if (GetParam() == WeightType::kQ4_0) {
        check({64, 32, WeightType::kQ4_0, WeightType::kQ4_0, Activation::kSilu}, {});
        check({1536, 96, WeightType::kQ4_0, WeightType::kQ4_1, Activation::kGeluTanh}, {});
    } else if (GetParam() == WeightType::kQ4_K) {
        check({2048, 64, WeightType::kQ4_K, WeightType::kQ6_K, Activation::kGeluTanh}, {});
        check({256, 288, WeightType::kQ4_K, WeightType::kQ8_0, Activation::kSilu}, {64, 256});
    }
}

TEST_P(GateUpTest, WritesNothingWhenStopped) {
    const WeightType type = GetParam();
    if (type == WeightType::kQ4_0) check({64, 32, type, type, Activation::kSilu}, {}, true);
}

INSTANTIATE_TEST_SUITE_P(Types, GateUpTest, ::testing::ValuesIn(kAllWeightTypes),
                         [](const auto& test) { return type_name(test.param); });

}  // namespace
}  // namespace winnow::test
