// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/embed_rows.h"

#include <fmt/format.h>

#include "tests/reference/embed_rows.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"

namespace winnow::test {
namespace {

class EmbedRowsTest : public GpuTest {};

TEST_F(EmbedRowsTest, MatchesReferenceForEveryType) {
    constexpr std::size_t kVocab = 100;
    constexpr std::size_t kCut = 64;  // a table in two row ranges
    const std::vector<std::uint32_t> tokens{0, 99, 63, 64, 1, 1, 65, 98, 7};
    for (const WeightType type : kAllWeightTypes) {
        const EmbedRows::Config config{is_k_type(type) ? 256u : 96u, type};
        const EmbedRows stage(device(), config);
        ReplicableRng rng(static_cast<std::uint64_t>(type));
        const TestMatrix table(type, kVocab, config.n_embd, rng);
        std::vector<std::byte> planes;
        const MatrixRef first = append_planes(planes, table, 0, kCut);
        const MatrixRef second = append_planes(planes, table, kCut, kVocab);
        const vk::Buffer weights = make_buffer(planes);
        for (const std::uint32_t n_tokens : {1u, 9u}) {
            for (const float scale : {1.0f, 25.3f}) {
                SCOPED_TRACE(fmt::format("{} tokens {} scale {}", type_name(type), n_tokens, scale));
                const auto ids = std::span(tokens).first(n_tokens);
                const vk::Buffer token_buffer = make_buffer(ids);
                const GuardedBuffer x(device(), "x", n_tokens * config.n_embd * sizeof(float));
                const auto record = [&](const MatrixRef& ref, std::uint32_t first_row) {
                    vk::run_once(device(), [&](vk::Recorder& recorder) {
                        stage.record(recorder, {weights, token_buffer, x.range()}, {ref, first_row, n_tokens, scale});
                    });
                };
                const auto expect = [&](const reference::Matrix& rows) {
                    const reference::Values ref = reference::embed_rows(rows, 0, ids, scale);
                    // A weight from its code in three roundings, and the scale.
                    expect_close(x.contents<float>(), ref.values, allowances(ref.terms, 4), "x");
                };
                record(first, 0);  // leaves the rows of other tokens alone
                reference::Matrix begin = table.ref;
                begin.n_rows = kCut;
                expect(begin);
                record(second, kCut);
                expect(table.ref);
            }
        }
    }
}

TEST_F(EmbedRowsTest, LeavesTokensOutsideItsRangeAlone) {
    const EmbedRows::Config config{64, WeightType::kF16};
    ReplicableRng rng;
    const TestMatrix table(config.type, 10, config.n_embd, rng);
    std::vector<std::byte> planes;
    const MatrixRef ref = append_planes(planes, table, 0, 10);
    const vk::Buffer weights = make_buffer(planes);
    const std::vector<std::uint32_t> tokens{4, 5, 14, 15, 0, 0xffffffff};  // the table holds 5 to 14
    const vk::Buffer token_buffer = make_buffer(tokens);
    const GuardedBuffer x(device(), "x", tokens.size() * config.n_embd * sizeof(float));
    const EmbedRows stage(device(), config);
    vk::run_once(device(), [&](vk::Recorder& recorder) {
        stage.record(recorder, {weights, token_buffer, x.range()},
                     {ref, 5, static_cast<std::uint32_t>(tokens.size()), 1});
    });
    const reference::Values expected = reference::embed_rows(table.ref, 5, tokens, 1);
    expect_close(x.contents<float>(), expected.values, allowances(expected.terms, 4), "x");
}

}  // namespace
}  // namespace winnow::test
