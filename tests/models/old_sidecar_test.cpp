// SPDX-License-Identifier: Apache-2.0
// Sessions of hisa beside sidecars that are not as `winnow calibrate` writes them now: those of before, which have no
// codes, and those whose codes are damaged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "models/calibration/attention_rows.h"
#include "models/calibration/block_filter.h"
#include "models/model.h"
#include "models/sidecar.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_gguf.h"
#include "tests/support/tiny_model.h"
#include "winnow/session.h"

namespace winnow::test {
namespace {

// Of 187 blocks the filter keeps 128, and of their tokens the index a quarter.
constexpr std::uint32_t kTokens = 12000;

class OldSidecarTest : public GpuTest {
protected:
    void SetUp() override {
        TinyOptions tiny;
        tiny.architecture = "gemma3";  // whose normed queries and keys give scores that differ
        tiny.n_ctx = kTokens;
        const std::vector<std::byte> bytes = make_tiny_gguf(tiny);
        path_ = folder_.write("tiny.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
        const GgufFile file = GgufFile::open(path_);
        hash_ = model_hash(file);
        shape_ = read_model_shape(file);
        c_ = assume_calibration(shape_);
        // Projections that pick every fourth dimension, so that the index knows something of the scores.
        std::fill(c_.index_maps.begin(), c_.index_maps.end(), 0.0f);
        for (std::size_t row = 0; row < c_.index_maps.size() / c_.head_dim; ++row)
            c_.index_maps[row * c_.head_dim + row % c_.index_dim * (c_.head_dim / c_.index_dim)] = 2;
    }
    std::unique_ptr<Session> open(std::uint32_t n_ctx, std::uint32_t audit_every = 0) const {
        SessionOptions options;
        options.n_ctx = n_ctx;
        options.sparse.preset = "hisa";
        options.sparse.audit_every = audit_every;
        return Session::open(path_, options);
    }
    std::string sidecar() const { return sidecar_beside(path_).filename().string(); }
    void expect_refused(const std::string& part) const {
        SCOPED_TRACE(part);
        try {
            open(256);
            ADD_FAILURE() << "accepted";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kBadFile);
            EXPECT_THAT(error.what(), ::testing::HasSubstr(part));
            EXPECT_THAT(error.what(), ::testing::HasSubstr("winnow calibrate"));
            EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
        }
    }
    template <typename Change>
    void expect_refused_after(const std::string& part, Change&& change) const {
        Calibration damaged = c_;
        change(damaged);
        write_sidecar(sidecar_beside(path_), damaged, hash_);
        expect_refused(part);
    }

    TemporaryFolder folder_;
    std::string path_, hash_;
    ModelShape shape_;
    Calibration c_;
};

// Projected onto the index, as `side` 0 (query) or 1 (key) of a kv head, counted over all layers.
Rows projected(const Calibration& c, std::uint32_t head, std::uint32_t side, const Rows& rows) {
    const Eigen::Map<const Rows> map(c.index_maps.data() + std::size_t{head * 2 + side} * c.index_dim * c.head_dim,
                                     c.index_dim, c.head_dim);
    return rows * map.transpose();
}

// Queries of the first layer that selects do not depend on what is attended to, so that they and the keys tell what the
// filter by blocks and the index after it choose, and so which share of the attention the audit must find.
TEST_F(OldSidecarTest, FiltersBlocksAndAttendsToWhatTheIndexChooses) {
    constexpr std::uint32_t kLayer = 1, kPosition = kTokens - 1;
    ASSERT_NE(shape_.layers[0].window, 0u);
    ASSERT_EQ(shape_.layers[kLayer].window, 0u);
    c_.codes = {};
    write_sidecar(sidecar_beside(path_), c_, hash_);
    const auto session = open(kTokens, 1);
    const SparsePolicy& policy = session->sparse_policy();
    ASSERT_EQ(policy.levels.size(), 2u);
    ASSERT_EQ(policy.levels[0].scorer, Scorer::kLowdimMean);

    const std::vector<std::int32_t> tokens = random_tokens(kTokens, 3);
    QuerySample sample(shape_, {kPosition});
    session->capture(tokens, [&](std::uint32_t layer, std::uint32_t first, std::span<const std::uint16_t> queries) {
        sample.collect(layer, first, queries);
    });
    const std::vector<std::uint16_t> halves = session->cached_keys(kLayer);
    ASSERT_EQ(session->truncate(kPosition), kPosition);
    for (const float logit : session->decode_logits(tokens.back())) ASSERT_TRUE(std::isfinite(logit));
    const SparseReport report = session->sparse_report();
    ASSERT_EQ(report.n_steps, 1u);

    const std::uint32_t end = (kTokens - policy.window) / 64 * 64, n_group = shape_.n_group();
    for (std::uint32_t kv_head = 0; kv_head < shape_.n_kv_heads; ++kv_head) {
        const std::uint32_t head = kLayer * shape_.n_kv_heads + kv_head;
        const Rows keys = head_rows(halves, shape_.n_kv_heads, kv_head, shape_.head_dim);
        Rows queries(n_group, shape_.head_dim);
        for (std::uint32_t g = 0; g < n_group; ++g) queries.row(g) = sample.queries(kLayer, kv_head * n_group + g);
        const Rows index_queries = projected(c_, head, 0, queries);
        const Rows index_keys =
            projected(c_, head, 1, keys).unaryExpr([](float x) { return static_cast<float>(Eigen::half(x)); });
        const Rows p = attention(queries, keys, std::vector<std::uint32_t>(n_group, kPosition));
        const auto chosen_by = [&](const SparsePolicy& chooser) {
            return choose_by_index(chooser, index_queries, index_keys, {}, kPosition);
        };
        const std::vector<std::uint32_t> chosen = chosen_by(policy), unfiltered = chosen_by(without_filter(policy));
        const auto n_attended = static_cast<double>(chosen.size() + policy.sink + kTokens - end);
        EXPECT_NEAR(double{report.layer_head_share[head]} * kTokens, n_attended, 1);
        double farthest = 0;
        for (std::uint32_t g = 0; g < n_group; ++g) {
            const auto mass = [&](const std::vector<std::uint32_t>& ids) {
                double sum = double{p.row(g).head(policy.sink).sum()} + double{p.row(g).tail(kTokens - end).sum()};
                for (const std::uint32_t t : ids) sum += double{p(g, t)};
                return sum;
            };
            const double got = double{report.layer_head_mass[head * n_group + g]};
            // The decode step's queries are not rounded to halves, nor what they are made of.
            EXPECT_NEAR(got, mass(chosen), 1e-3) << "kv head " << kv_head << " query head " << g;
            farthest = std::max(farthest, std::abs(mass(unfiltered) - mass(chosen)));
        }
        EXPECT_GT(farthest, 5e-3) << "the filter drops nothing that counts: the test says little";
    }
}

// What a damaged sidecar says of codes is refused before anything is made of it.
TEST_F(OldSidecarTest, DamagedCodesAreRefused) {
    const float infinity = std::numeric_limits<float>::infinity();
    const auto all_of = [](Calibration& c, std::size_t n) {
        c.codes.bits.resize(n);
        c.codes.curves.resize(n * kCodeTerms);
    };
    const std::size_t n = c_.codes.bits.size();
    expect_refused_after("not", [&](Calibration& c) { all_of(c, n - c.index_dim); });  // a head too few
    expect_refused_after("not", [&](Calibration& c) { all_of(c, n + 1); });
    expect_refused_after("not", [&](Calibration& c) { c.codes.curves = {}; });
    expect_refused_after("bits too many", [&](Calibration& c) { c.codes.bits[n - 1] = 255; });
    for (const float term : {infinity, -infinity, NAN})
        for (std::size_t t = 0; t < kCodeTerms; ++t)
            expect_refused_after("code", [&](Calibration& c) { c.codes.curves[(n - 1) * kCodeTerms + t] = term; });
    // Finite, but nothing that index keys of halves could be.
    expect_refused_after("code", [&](Calibration& c) { c.codes.curves[3] = 1e38f; });
    expect_refused_after("code_curves", [&](Calibration& c) {
        for (std::uint32_t r = 0; r < c.index_dim; ++r) c.codes.curves[r * kCodeTerms] = 1e7f;
    });
}

// Numbers that no calibration writes, as the file has them: 32 bits, of which a code's bits are eight.
TEST_F(OldSidecarTest, BitsThatNoByteHoldsAreRefused) {
    const std::string key = "calibration.code_bits";
    write_sidecar(sidecar_beside(path_), c_, hash_);
    const std::string bytes = folder_.read(sidecar());
    const std::size_t first = bytes.find(key) + key.size() + 4 + 4 + 8;  // type, type of the elements, their number
    ASSERT_LT(first, bytes.size());
    std::int32_t bits = 0;
    std::memcpy(&bits, bytes.data() + first, 4);
    ASSERT_EQ(bits, c_.codes.bits[0]);
    for (const std::int32_t value : {bits - 256, bits + 256, bits + 65536, -1, 1 << 30}) {
        std::string damaged = bytes;
        std::memcpy(damaged.data() + first, &value, 4);
        folder_.write(sidecar(), damaged);
        expect_refused("code_bits is out of range");
    }
    std::string strange = bytes;  // floats in place of integers
    const std::uint32_t floats = 6;
    std::memcpy(strange.data() + first - 12, &floats, 4);
    folder_.write(sidecar(), strange);
    expect_refused("code_bits holds no integers");
    folder_.write(sidecar(), bytes);
    EXPECT_EQ(open(256)->sparse_policy().levels[0].scorer, Scorer::kCodes);
}

}  // namespace
}  // namespace winnow::test
