// SPDX-License-Identifier: Apache-2.0
// Sessions with the compensation token of RazorAttention: every token is either seen by a local head or counted in its
// sums, once, whatever the session did before.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "models/model.h"
#include "models/sidecar.h"
#include "runtime/kv/evicted_sums.h"
#include "runtime/vk/device.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/sparse_data.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_gguf.h"
#include "winnow/session.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kContext = 768, kTokens = 500, kWindow = 70, kSinks = 4;

class CompensatedSessionTest : public GpuTest {
protected:
    void SetUp() override {
        GpuTest::SetUp();
        TinyOptions tiny;
        tiny.n_ctx = 4096;
        const std::vector<std::byte> bytes = make_tiny_gguf(tiny);
        folder_.write("llama.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
        for (std::uint32_t i = 0; i < kTokens; ++i)
            tokens_.push_back(static_cast<std::int32_t>(3 + (i * 37 + i * i) % 250));
    }
    void TearDown() override {
        log_.expect_silent();
        GpuTest::TearDown();
    }
    ModelSource model() const { return open_model(folder_.path("llama.gguf")); }
    /// Every second kv head keeps sinks and a window.
    SparseOptions razor(bool compensate, const char* preset = "razor") const {
        const ModelShape shape = model().shape;
        auto calibration = std::make_shared<Calibration>(assume_calibration(shape));
        for (std::size_t i = 0; i < calibration->full_heads.size(); ++i)
            calibration->full_heads[i] = i % 2 == 0 ? 1 : 0;
        SparseOptions sparse;
        sparse.preset = preset;
        sparse.calibration = calibration;
        sparse.overrides.window = kWindow;
        sparse.overrides.sink = kSinks;
        sparse.overrides.min_ctx = 0;
        sparse.overrides.compensate = compensate;
        return sparse;
    }
    std::unique_ptr<Session> open(const SparseOptions& sparse, std::uint32_t n_chunk = 64, KvType type = KvType::kF16,
                                  std::uint32_t n_ctx = kContext) const {
        SessionOptions options;
        options.n_ctx = n_ctx;
        options.n_chunk = n_chunk;
        options.kv_type = type;
        options.sparse = sparse;
        options.steps_in_flight = 8;
        return make_session(vk::Device::open(log_.device_options()), model(), options);
    }
    static std::vector<float> logits(Session& session) {
        std::vector<float> all;
        for (const std::int32_t token : {7, 42, 7}) {
            const std::span<const float> row = session.decode_logits(token);
            all.insert(all.end(), row.begin(), row.end());
        }
        return all;
    }
    static void answer(Session& session, std::int32_t token, std::uint32_t n_read) {
        SamplingOptions greedy;
        greedy.temperature = 0;
        session.start(std::vector<std::int32_t>{token}, greedy, {}, 200);
        for (std::uint32_t i = 0; i < n_read; ++i) session.next();
        session.finish();
    }
    static bool is_local(std::size_t head) { return head % 2 != 0; }

    /// The sums of keys of the rings, [head][head_dim], out of a cache file; they stand at its end, before the
    /// checksum.
    std::vector<std::vector<std::int64_t>> saved_key_sums(Session& session) const {
        session.save_cache(folder_.path("cache"));
        const std::string bytes = folder_.read("cache");
        const ModelShape shape = session.shape();
        const std::size_t n_rings = std::size_t{shape.n_layers} * shape.n_kv_heads / 2;
        const std::size_t row = EvictedSums::row_bytes(shape.head_dim);
        std::vector<std::vector<std::int64_t>> sums;
        for (std::size_t i = 0; i < n_rings; ++i) {
            std::vector<std::int64_t>& sum = sums.emplace_back(shape.head_dim);
            std::memcpy(sum.data(), bytes.data() + bytes.size() - 8 - (n_rings - i) * row, row / 2);
        }
        return sums;
    }
    /// The same from all keys of a session without rings, which has the same tokens.
    static std::vector<std::vector<std::int64_t>> key_sums(const Session& session) {
        const ModelShape& shape = session.shape();
        std::vector<std::vector<std::int64_t>> sums;
        for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
            const std::vector<std::uint16_t> keys = session.cached_keys(layer);
            for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h) {
                if (!is_local(layer * shape.n_kv_heads + h)) continue;
                std::vector<std::int64_t>& sum = sums.emplace_back(shape.head_dim, 0);
                for (std::uint32_t t = kSinks; t + kWindow < session.n_cached() + 1; ++t)
                    for (std::uint32_t i = 0; i < shape.head_dim; ++i)
                        sum[i] += std::llrint(std::ldexp(
                            double{half_value(keys[(std::size_t{t} * shape.n_kv_heads + h) * shape.head_dim + i])},
                            24));
            }
        }
        return sums;
    }
    TemporaryFolder folder_;
    std::vector<std::int32_t> tokens_;
    ValidationLog log_;
};

TEST_F(CompensatedSessionTest, EveryTokenIsCountedOnce) {
    const auto session = open(razor(true));
    const auto twin = open({});  // heads are narrowed and nothing is dropped
    twin->use_sparse(razor(true));
    const auto expect_equal = [&](const char* when) {
        SCOPED_TRACE(when);
        ASSERT_EQ(session->tokens(), twin->tokens());
        EXPECT_EQ(saved_key_sums(*session), key_sums(*twin));
    };
    const auto both = [&](auto&& act) {
        act(*session);
        act(*twin);
    };
    both([&](Session& s) { s.prefill(std::span(tokens_).first(kWindow + kSinks - 1)); });
    expect_equal("nothing has left");
    both([&](Session& s) { s.prefill(std::span(tokens_).subspan(s.n_cached(), 3)); });
    expect_equal("the first have left");
    both([&](Session& s) { s.prefill(std::span(tokens_).subspan(s.n_cached(), 300)); });
    expect_equal("prefilled");
    EXPECT_NE(key_sums(*twin)[0], std::vector<std::int64_t>(twin->shape().head_dim, 0));
    std::vector<std::vector<float>> rows;
    both([&](Session& s) { rows.push_back(logits(s)); });
    EXPECT_EQ(rows[0], rows[1]);
    expect_equal("decoded");
    both([&](Session& s) { answer(s, 9, 2); });  // and surplus steps
    expect_equal("answered");
    both([&](Session& s) { s.truncate(s.n_cached() - 5); });
    expect_equal("gone back");
    rows.clear();
    both([&](Session& s) { rows.push_back(logits(s)); });
    EXPECT_EQ(rows[0], rows[1]);
    both([&](Session& s) {  // given up in the middle of a chunk
        std::uint32_t n_asked = 0;
        s.prefill(std::span(tokens_).first(130), [&](std::uint32_t, std::uint32_t) { return ++n_asked < 2; });
    });
    // How much a submission holds goes by measured time, so that a busy machine may have stopped one of them earlier.
    const std::uint32_t n_both = std::min(session->n_cached(), twin->n_cached());
    both([&](Session& s) { s.truncate(n_both); });
    expect_equal("given up");
    both([&](Session& s) { s.truncate(0); });
    both([&](Session& s) { s.prefill(std::span(tokens_).first(200)); });
    expect_equal("begun anew");
    both([&](Session& s) { (void)s.time_stages(); });
    expect_equal("timed");
}

TEST_F(CompensatedSessionTest, ChunksDoNotMatter) {
    std::vector<std::vector<float>> rows;
    for (const std::uint32_t n_chunk : {64u, 32u, 256u}) {
        const auto session = open(razor(true), n_chunk);
        session->prefill(tokens_);
        session->truncate(kTokens - 7);
        rows.push_back(logits(*session));
    }
    EXPECT_EQ(rows[0], rows[1]);
    EXPECT_EQ(rows[0], rows[2]);
}

TEST_F(CompensatedSessionTest, ItChangesWhatWindowsDropAndNothingElse) {
    const auto with = open(razor(true)), without = open(razor(false));
    for (Session* s : {with.get(), without.get()}) s->prefill(std::span(tokens_).first(kWindow));
    EXPECT_EQ(logits(*with), logits(*without));
    for (Session* s : {with.get(), without.get()}) {
        s->truncate(0);
        s->prefill(tokens_);
    }
    EXPECT_NE(logits(*with), logits(*without));
    EXPECT_EQ(with->memory().kv_bytes - without->memory().kv_bytes,
              with->shape().n_layers * with->shape().n_kv_heads * (EvictedSums::row_bytes(with->shape().head_dim) + 4));
}

TEST_F(CompensatedSessionTest, EveryCacheTypeAndPreset) {
    for (const KvType type : {KvType::kQ8_0, KvType::kQ4_0, KvType::kF32}) {
        std::vector<std::vector<float>> rows;
        for (const bool rings : {true, false}) {
            const auto session = open(rings ? razor(true) : SparseOptions{}, 64, type);
            if (!rings) session->use_sparse(razor(true));
            session->prefill(tokens_);
            rows.push_back(logits(*session));
        }
        EXPECT_EQ(rows[0], rows[1]);
    }
    const auto selecting = open(razor(true, "rtpurbo")), without = open(razor(false, "rtpurbo"));
    for (Session* s : {selecting.get(), without.get()}) s->prefill(tokens_);
    EXPECT_NE(logits(*selecting), logits(*without));
}

// The paper's setting: a prompt that all heads saw whole, and heads that are narrowed after it.
TEST_F(CompensatedSessionTest, HeadsNarrowedLaterAreSummedFromTheirRows) {
    const auto session = open({});
    session->prefill(tokens_);
    const std::vector<float> dense = logits(*session);
    session->truncate(kTokens);
    session->use_sparse(razor(true));
    const std::vector<float> wanted = logits(*session);
    EXPECT_NE(wanted, dense);
    session->truncate(kTokens);
    session->use_sparse({});
    EXPECT_EQ(logits(*session), dense);
    session->truncate(kTokens);
    SparseOptions other = razor(true);  // other sinks, another window
    other.overrides.sink = 20;
    other.overrides.window = 100;
    session->use_sparse(other);
    EXPECT_NE(logits(*session), wanted);
    session->truncate(kTokens);
    session->use_sparse(razor(true));
    EXPECT_EQ(logits(*session), wanted);
}

TEST_F(CompensatedSessionTest, PromptCachesHaveTheSums) {
    std::vector<float> wanted, wanted_part;
    {
        const auto session = open(razor(true));
        session->prefill(tokens_);
        session->save_cache(folder_.path("with"));
        wanted = logits(*session);
        session->truncate(kTokens - 10);
        wanted_part = logits(*session);
    }
    const auto session = open(razor(true)), plain = open(razor(false));
    session->prefill(std::vector<std::int32_t>(300, 5));
    EXPECT_EQ(session->restore_cache(folder_.path("with"), tokens_), kTokens);
    EXPECT_EQ(logits(*session), wanted);
    EXPECT_EQ(session->restore_cache(folder_.path("with"), std::span(tokens_).first(kTokens - 10)), kTokens - 10);
    EXPECT_EQ(logits(*session), wanted_part);
    plain->prefill(tokens_);
    plain->save_cache(folder_.path("without"));
    const auto refused = [&](Session& s, const char* file) -> std::string {
        try {
            s.restore_cache(folder_.path(file), tokens_);
        } catch (const Error& error) {
            return error.what();
        }
        return "not refused";
    };
    EXPECT_THAT(refused(*plain, "with"), HasSubstr("was made with --sparse-compensation"));
    EXPECT_THAT(refused(*session, "without"), HasSubstr("was made without --sparse-compensation"));
}

TEST_F(CompensatedSessionTest, RefusedWhereNothingCanBeSummed) {
    const auto message = [&](auto&& act) -> std::string {
        try {
            act();
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
            return error.what();
        }
        return "not refused";
    };
    for (const char* preset : {"off", "exact", "streaming"}) {
        SparseOptions sparse;
        sparse.preset = preset;
        sparse.overrides.compensate = true;
        EXPECT_THAT(message([&] { open(sparse); }), HasSubstr("--sparse-compensation")) << preset;
    }
    const auto session = open(razor(false));
    session->prefill(tokens_);
    EXPECT_THAT(message([&] { session->use_sparse(razor(true)); }), HasSubstr("--sparse-compensation"));
    EXPECT_EQ(session->n_cached(), kTokens);
    logits(*session);                       // goes on as before
    const auto summed = open(razor(true));  // rings are summed on while another policy does not look at the sums
    summed->prefill(std::span(tokens_).first(200));
    const std::vector<float> wanted = logits(*summed);
    summed->truncate(200);
    summed->use_sparse(razor(false));
    EXPECT_NE(logits(*summed), wanted);
    summed->truncate(200);
    summed->use_sparse(razor(true));
    EXPECT_EQ(logits(*summed), wanted);
}

}  // namespace
}  // namespace winnow::test
