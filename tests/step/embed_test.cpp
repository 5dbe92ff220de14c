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

class EmbedTest : public GpuTest, public ::testing::WithParamInterface<WeightType> {
protected:
    static std::vector<std::uint32_t> widths() {
        return is_k_type(GetParam()) ? std::vector<std::uint32_t>{256, 2048} : std::vector<std::uint32_t>{64, 96, 576};
    }
};

TEST_P(EmbedTest, RowsOfTwoRanges) {
    for (const std::uint32_t n_embd : widths()) {
        ReplicableRng rng(n_embd);
        const TestMatrix table(GetParam(), kRows, n_embd, rng);
        const std::vector<float> norm = rng.normals(n_embd, 1, 0.3f);
        std::vector<std::byte> planes;
        const std::uint32_t cut = 5;
        const MatrixRef first = append_planes(planes, table, 0, cut);
        const MatrixRef second = append_planes(planes, table, cut, kRows);
        const vk::Buffer table_buffer = make_buffer(planes);
        const vk::Buffer norm_buffer = make_buffer(norm);
        const Embed stage(device(), {n_embd, GetParam()});
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
            SCOPED_TRACE(::testing::Message() << "n_embd " << n_embd << " token " << token);
            expect_residual(x, act, reference::embed(table.ref, token, scale, to_doubles(norm)), kRoundings, "embed");
        }
    }
}

TEST_P(EmbedTest, WritesNothingWhenStoppedOrOutOfRange) {
    const std::uint32_t n_embd = widths().front();
    ReplicableRng rng;
    const TestMatrix table(GetParam(), kRows, n_embd, rng);
    std::vector<std::byte> planes;
    const MatrixRef ref = append_planes(planes, table, 0, kRows);
    const vk::Buffer table_buffer = make_buffer(planes);
    const vk::Buffer norm_buffer = make_buffer(rng.normals(n_embd));
    const Embed stage(device(), {n_embd, GetParam()});
    struct Case {
        std::uint32_t token, first_row;
        bool stopped;
    };
    for (const Case& c : {Case{3, 0, true}, Case{kRows, 0, false}, Case{3, 4, false}, Case{~0u, 0, false}}) {
        const vk::Buffer state = make_state(device(), c.token, 0, c.stopped);
        const GuardedBuffer x(device(), "x", n_embd * 4);
        const GuardedBuffer act(device(), "act", activation_bytes(n_embd));
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            stage.record(recorder, {table_buffer, state, x.range(), norm_buffer, act.range()}, {ref, c.first_row, 1.0f});
        });
        x.expect_untouched();
        act.expect_untouched();
    }
}

INSTANTIATE_TEST_SUITE_P(Types, EmbedTest, ::testing::ValuesIn(kAllWeightTypes),
                         [](const auto& test) { return type_name(test.param); });

}  // namespace
}  // namespace winnow::test
