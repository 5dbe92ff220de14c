// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/matmul.h"

#include <fmt/format.h>

#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "tests/reference/matmul.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/sparse_data.h"
#include "winnow/error.h"

namespace winnow::test {
namespace {

constexpr std::size_t kRows = 75;         // no multiple of any tile
constexpr std::uint32_t kFirstToken = 3;  // of the input rows

/// Where a matrix's rows go in an output row; at multiples of 4 the cooperative variant stores whole matrices.
struct Place {
    std::uint32_t first_column = 5, out_stride = 90;
};

/// Parameter: the shader variant.
class MatmulTest : public GpuTest, public ::testing::WithParamInterface<const char*> {
protected:
    void SetUp() override {
        GpuTest::SetUp();
        if (IsSkipped()) return;
        forced_.emplace("WINNOW_FORCE_VARIANT", GetParam());
        try {
            EXPECT_EQ(Matmul(device(), {32, WeightType::kF16, false}).variant(), GetParam());
        } catch (const Error& error) {
            GTEST_SKIP() << error.what();
        }
    }
    static bool is_cooperative() { return GetParam() == std::string("matmul_coopmat"); }

    /// The matrix in two row ranges of one buffer, as a large tensor is bound: rows [0, cut) and the others.
    static void check(const Matmul& stage, const Matmul::Config& config, const TestMatrix& w, std::uint32_t n_tokens,
                      std::size_t cut, const Place& place = {}) {
        const auto [first_column, out_stride] = place;
        const std::size_t n_rows = w.ref.n_rows;
        SCOPED_TRACE(fmt::format("{} n_in {} tokens {} cut {}{}", type_name(w.type), config.n_in, n_tokens, cut,
                                 config.add ? " add" : ""));
        ReplicableRng rng(n_tokens);
        std::vector<std::byte> planes;
        const MatrixRef first = append_planes(planes, w, 0, cut);
        const MatrixRef second = append_planes(planes, w, cut, n_rows);
        std::vector<std::uint16_t> rows(kFirstToken * config.n_in, 0x7fff);  // NaN: not asked for
        std::vector<float> row_values;
        for (std::size_t i = 0; i < std::size_t{n_tokens} * config.n_in; ++i) {
            rows.push_back(half_bits(rng.normal(0, 2)));
            row_values.push_back(half_value(rows.back()));
        }
        std::vector<float> before(std::size_t{n_tokens} * out_stride, std::numeric_limits<float>::quiet_NaN());
        if (config.add) before = rng.normals(before.size(), 0, 3);

        const vk::Buffer weights = make_buffer(planes);
        const vk::Buffer in = make_buffer(rows);
        const GuardedBuffer out(device(), "out", std::as_bytes(std::span(before)));
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            const Matmul::Buffers buffers{weights, in, out.range()};
            stage.record(recorder, buffers, {first, first_column, n_tokens, out_stride, kFirstToken});
            stage.record(recorder, buffers,
                         {second, first_column + static_cast<std::uint32_t>(cut), n_tokens, out_stride, kFirstToken});
        });

        const reference::Values product = reference::matmul(w.ref, row_values);
        std::vector<double> expected = to_doubles(before);
        std::vector<double> terms(expected.size());
        for (std::size_t i = 0; i < product.values.size(); ++i) {
            const std::size_t at = i / n_rows * out_stride + first_column + i % n_rows;
            const double base = config.add ? expected[at] : 0;
            expected[at] = base + product.values[i];
            terms[at] = std::abs(base) + product.terms[i];
        }
        // One fused sum over the columns, after up to three roundings of a weight; one more to add. Matrix units round
        // weights to f16, and may cut partial sums off where the plain variant rounds them.
        double n_roundings = static_cast<double>(config.n_in) + 4;
        if (is_cooperative()) n_roundings = 2 * n_roundings + (config.type == WeightType::kF16 ? 0 : 0x1p13 + 4);
        expect_close(out.contents<float>(), expected, allowances(terms, n_roundings), "out");
    }

private:
    std::optional<ScopedEnv> forced_;
};

TEST_P(MatmulTest, MatchesReferenceForEveryType) {
    for (const WeightType type : kAllWeightTypes) {
        // 3 blocks: no multiple of the 8 columns x subgroup that a pass covers.
        const Matmul::Config config{is_k_type(type) ? 256u : 96u, type, false};
        ReplicableRng rng(static_cast<std::uint64_t>(type));
        const TestMatrix w(type, kRows, config.n_in, rng);
        const Matmul stage(device(), config);
        for (const std::uint32_t n_tokens : {1u, 7u, 8u, 9u, 33u}) check(stage, config, w, n_tokens, 32);
        check(stage, config, w, 9, 1);
        check(stage, config, w, 9, kRows - 1);
    }
}

TEST_P(MatmulTest, AddsToTheResidualStream) {
    for (const WeightType type : {WeightType::kF16, WeightType::kQ4_0}) {
        const Matmul::Config config{96, type, true};
        ReplicableRng rng(99);
        const TestMatrix w(type, kRows, config.n_in, rng);
        const Matmul stage(device(), config);
        for (const std::uint32_t n_tokens : {1u, 8u, 33u}) check(stage, config, w, n_tokens, 64);
    }
}

TEST_P(MatmulTest, EveryTileAndPlace) {
    for (const auto& [type, add] :
         {std::pair{WeightType::kQ4_0, false}, {WeightType::kQ8_0, true}, {WeightType::kF16, false}}) {
        const Matmul::Config config{96, type, add};
        ReplicableRng rng(5);
        const TestMatrix w(type, 150, config.n_in, rng);
        const Matmul stage(device(), config, 1);  // so that the number of tokens alone decides
        for (const std::uint32_t n_tokens : {1u, 16u, 20u, 33u, 64u, 70u, 130u}) {
            check(stage, config, w, n_tokens, 128, {8, 160});  // 128 rows: the largest tile
            check(stage, config, w, n_tokens, 128, {8, 162});
            check(stage, config, w, n_tokens, 32, {5, 160});
        }
    }
}

TEST_P(MatmulTest, WideRows) {
    for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ6_K}) {
        const Matmul::Config config{is_k_type(type) ? 1536u : 576u, type, false};
        ReplicableRng rng(7);
        const TestMatrix w(type, kRows, config.n_in, rng);
        check(Matmul(device(), config), config, w, 9, 32);
    }
}

INSTANTIATE_TEST_SUITE_P(Variants, MatmulTest, ::testing::Values("matmul", "matmul_texel", "matmul_coopmat"),
                         [](const auto& variant) { return std::string(variant.param); });

}  // namespace
}  // namespace winnow::test
