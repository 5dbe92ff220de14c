// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/embed.h"

#include "runtime/kv/step_buffers.h"
#include "tests/reference/embed.h"
#include "tests/support/dense_data.h"

namespace winnow::test {
namespace {

// Decoding a value (product and sum), the model's scale.
constexpr double kRoundings = 3;
constexpr std::size_t kRows = 9;

class EmbedTest : public GpuTest, public ::testing::WithParamInterface<Embed::Config> {};

TEST_P(EmbedTest, RowsOfTwoRanges) {
    const auto [n_embd, type] = GetParam();
    ReplicableRng rng(n_embd);
    const TestMatrix table(type, kRows, n_embd, rng);
    const std::vector<float> norm = rng.normals(n_embd, 1, 0.3f);
    std::vector<std::byte> planes;
    const std::uint32_t cut = 5;
    const MatrixRef first = append_planes(planes, table, 0, cut);
    const MatrixRef second = append_planes(planes, table, cut, kRows);
    const vk::Buffer table_buffer = make_buffer(planes);
    const vk::Buffer norm_buffer = make_buffer(norm);
    const Embed stage(device(), GetParam());
    for (const std::uint32_t token : {0u, 4u, 5u, 8u}) {
        const float scale = token == 5 ? std::sqrt(static_cast<float>(n_embd)) : 1.0f;
        const vk::Buffer state = make_state(device(), token, 7);
        const GuardedBuffer x(device(), "x", n_embd * 4);
        const GuardedBuffer act(device(), "act", activation_bytes(n_embd));
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            const Embed::Buffers buffers{table_buffer, state, x.range(), norm_buffer, act.range()};
            stage.record(recorder, buffers, {first, 0, scale});
            stage.record(recorder, buffers, {second, cut, scale});
        });
        SCOPED_TRACE(::testing::Message() << "token " << token);
        expect_residual(x, act, reference::embed(table.ref, token, scale, to_doubles(norm)), kRoundings, "embed");
    }
}

std::vector<Embed::Config> cases() {
    std::vector<Embed::Config> list;
    for (const WeightType type : kAllWeightTypes) list.push_back({is_k_type(type) ? 512u : 576u, type});
    list.push_back({64, WeightType::kQ8_0});
    list.push_back({96, WeightType::kQ5_1});
    list.push_back({2048, WeightType::kQ6_K});
    return list;
}

INSTANTIATE_TEST_SUITE_P(Shapes, EmbedTest, ::testing::ValuesIn(cases()), [](const auto& test) {
    return type_name(test.param.type) + "_" + std::to_string(test.param.n_embd);
});

TEST_F(EmbedTest, WritesNothingWhenStoppedOrOutOfRange) {
    const std::uint32_t n_embd = 64;
    ReplicableRng rng;
    const TestMatrix table(WeightType::kQ8_0, kRows, n_embd, rng);
    std::vector<std::byte> planes;
    const MatrixRef ref = append_planes(planes, table, 0, kRows);
    const vk::Buffer table_buffer = make_buffer(planes);
    const vk::Buffer norm_buffer = make_buffer(rng.normals(n_embd));
    const Embed stage(device(), {n_embd, WeightType::kQ8_0});
    struct Case {
        std::uint32_t token, first_row;
        bool stopped;
    };
    for (const Case& c : {Case{3, 0, true}, Case{kRows, 0, false}, Case{3, 4, false}, Case{~0u, 0, false}}) {
        const vk::Buffer state = make_state(device(), c.token, 0, c.stopped);
        const GuardedBuffer x(device(), "x", n_embd * 4);
        const GuardedBuffer act(device(), "act", activation_bytes(n_embd));
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            stage.record(recorder, {table_buffer, state, x.range(), norm_buffer, act.range()},
                         {ref, c.first_row, 1.0f});
        });
        x.expect_untouched();
        act.expect_untouched();
    }
}

}  // namespace
}  // namespace winnow::test
