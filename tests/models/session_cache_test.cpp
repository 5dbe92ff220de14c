// SPDX-License-Identifier: Apache-2.0
// What is saved and restored equals what was prefilled, to the bit; what does not fit is refused before anything
// changes.
#include "models/session_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>

#include "models/model.h"
#include "models/sidecar.h"
#include "runtime/vk/device.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_gguf.h"
#include "winnow/session.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kContext = 1024, kTokens = 300;

class SessionCacheTest : public GpuTest {
protected:
    struct Settings {
        std::string model = "llama.gguf";
        KvType type = KvType::kF16;
        const char* preset = "off";
        std::uint32_t n_ctx = kContext;
        std::uint32_t budget = 96;
        std::int32_t min_ctx = 0;
        std::uint32_t n_chunk = 64;
        std::uint32_t steps_in_flight = 2;
    };
    void SetUp() override {
        GpuTest::SetUp();
        TinyOptions tiny;
        tiny.n_ctx = 4096;
        tiny.n_layers = 4;  // quest leaves the first two dense
        make("llama.gguf", tiny);
        tiny.seed = 2;
        make("other.gguf", tiny);
        tiny.architecture = "gemma3";
        make("gemma.gguf", tiny);
        for (std::uint32_t i = 0; i < kTokens; ++i)
            tokens_.push_back(static_cast<std::int32_t>(3 + (i * 37 + i * i) % 250));
    }
    void TearDown() override {
        log_.expect_silent();
        GpuTest::TearDown();
    }
    void make(const char* name, const TinyOptions& options) const {
        const std::vector<std::byte> bytes = make_tiny_gguf(options);
        write(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    std::string path(const std::string& name) const { return folder_.path(name); }
    void write(const char* name, const std::string& bytes) const { folder_.write(name, bytes); }
    std::string read(const char* name) const { return folder_.read(name); }
    static SparseOptions sparse(const Settings& s) {
        SparseOptions sparse;
        sparse.preset = s.preset;
        sparse.overrides.min_ctx = s.min_ctx;
        if (sparse.preset != "off") {
            sparse.overrides.window = 32;
            sparse.overrides.budget = s.budget;
        }
        return sparse;
    }
    std::unique_ptr<Session> open(const Settings& s) const {
        SessionOptions options;
        options.n_ctx = s.n_ctx;
        options.n_chunk = s.n_chunk;
        options.steps_in_flight = s.steps_in_flight;
        options.kv_type = s.type;
        options.sparse = sparse(s);
        return make_session(vk::Device::open(log_.device_options()), open_model(path(s.model)), options);
    }
    // Ends an answer after its first token, with whatever steps are queued behind it.
    static void answer_shortly(Session& session, std::int32_t token) {
        SamplingOptions greedy;
        greedy.temperature = 0;
        session.start(std::vector<std::int32_t>{token}, greedy, {}, 200);
        EXPECT_TRUE(session.next());
        session.finish();
    }
    // Logits of a few teacher-forced steps, then a greedy answer.
    static std::vector<float> continued(Session& session) {
        std::vector<float> all;
        for (const std::int32_t token : {7, 42, 7, 99}) {
            const std::span<const float> row = session.decode_logits(token);
            all.insert(all.end(), row.begin(), row.end());
        }
        SamplingOptions greedy;
        greedy.temperature = 0;
        session.start(std::vector<std::int32_t>{11}, greedy, {}, 6);
        while (const auto token = session.next()) all.push_back(static_cast<float>(*token));
        session.finish();
        return all;
    }
    std::string message(Session& session, const std::string& file, ErrorCode code) const {
        const std::uint32_t before = session.n_cached();
        try {
            session.restore_cache(file, tokens_);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), code) << error.what();
            EXPECT_EQ(session.n_cached(), before);
            return error.what();
        }
        ADD_FAILURE() << "not refused";
        return "";
    }
    TemporaryFolder folder_;
    std::vector<std::int32_t> tokens_;
    ValidationLog log_;
};

class SessionCacheRoundTrip : public SessionCacheTest,
                              public ::testing::WithParamInterface<std::pair<KvType, const char*>> {};

TEST_P(SessionCacheRoundTrip, ARestoredCacheGoesOnAsAPrefilledOne) {
    Settings settings{"llama.gguf", GetParam().first, GetParam().second};
    std::vector<float> wanted, wanted_part;
    {
        const auto session = open(settings);
        session->prefill(tokens_);
        session->save_cache(path("cache"));
        EXPECT_EQ(session->tokens(), tokens_);  // saving changes nothing
        wanted = continued(*session);
        if (std::string(settings.preset) != "off") {
            EXPECT_LT(session->sparse_report().attended_share, 0.8);
        }
        session->truncate(100);
        wanted_part = continued(*session);
    }
    EXPECT_EQ(folder_.count(), 4u);  // nothing unfinished is left
    {
        const auto session = open(settings);
        session->prefill(std::vector<std::int32_t>(200, 5));  // what it held before leaves no trace
        EXPECT_EQ(session->restore_cache(path("cache"), tokens_), kTokens);
        EXPECT_EQ(session->tokens(), tokens_);
        session->save_cache(path("again"));
        EXPECT_EQ(continued(*session), wanted);
        // A prompt that ends after 100 tokens, and one that goes another way there.
        std::vector<std::int32_t> other(tokens_.begin(), tokens_.begin() + 100);
        EXPECT_EQ(session->restore_cache(path("again"), other), 100u);
        other.push_back(tokens_[100] + 1);
        EXPECT_EQ(session->restore_cache(path("again"), other), 100u);
        EXPECT_EQ(session->n_cached(), 100u);
        EXPECT_EQ(session->restore_cache(path("cache"), std::vector<std::int32_t>{tokens_[0] + 1}), 0u);
        EXPECT_EQ(session->n_cached(), 100u);  // nothing in common: as it was
        EXPECT_EQ(continued(*session), wanted_part);
    }
    settings.n_ctx = 128;  // less than the file has; elsewhere in the pools
    const auto small = open(settings);
    EXPECT_EQ(small->restore_cache(path("cache"), tokens_), 128u);
    EXPECT_EQ(small->restore_cache(path("cache"), std::span(tokens_).first(90)), 90u);
}

INSTANTIATE_TEST_SUITE_P(All, SessionCacheRoundTrip,
                         ::testing::Values(std::pair{KvType::kF16, "off"}, std::pair{KvType::kQ8_0, "off"},
                                           std::pair{KvType::kF16, "quest"}, std::pair{KvType::kQ8_0, "quest"}),
                         [](const auto& test) {
                             return std::string(test.param.first == KvType::kF16 ? "f16_" : "q8_0_") +
                                    test.param.second;
                         });

TEST_F(SessionCacheTest, DecodedTokensServeTheirOwnPolicyOnly) {
    const Settings quest{"llama.gguf", KvType::kF16, "quest"}, off;
    Settings wider = quest, late = quest;
    wider.budget = 112;
    late.min_ctx = 4000;
    std::vector<std::int32_t> all(tokens_.begin(), tokens_.begin() + 210);
    std::vector<float> wanted;
    const auto write_decoded = [&](Session& session) {
        session.prefill(std::span(all).first(200));
        for (std::size_t i = 200; i < 205; ++i) session.decode_logits(all[i]);
        session.prefill(std::span(all).subspan(205));
        session.save_cache(path("cache"));
    };
    {
        const auto session = open(quest);
        write_decoded(*session);
        wanted = continued(*session);
        session->truncate(200);  // what was decoded is gone, and all that is left serves everybody
        session->save_cache(path("prompt"));
    }
    const auto session = open(quest);
    EXPECT_EQ(session->restore_cache(path("cache"), all), 210u);
    session->save_cache(path("again"));
    EXPECT_EQ(read("again"), read("cache"));
    EXPECT_EQ(continued(*session), wanted);
    for (const Settings& other : {off, wider}) {
        session->use_sparse(sparse(other));
        EXPECT_EQ(session->restore_cache(path("cache"), all), 200u);
        EXPECT_EQ(session->restore_cache(path("prompt"), all), 200u);
    }
    // Two policies one after the other: then neither may take it.
    session->decode_logits(all[200]);
    session->use_sparse(sparse(quest));
    session->decode_logits(all[201]);
    session->save_cache(path("cache"));
    EXPECT_EQ(session->restore_cache(path("cache"), all), 200u);
    // Too early for quest: dense steps serve everybody.
    session->use_sparse(sparse(late));
    session->truncate(0);
    write_decoded(*session);
    session->use_sparse(sparse(off));
    EXPECT_EQ(session->restore_cache(path("cache"), all), 210u);
}

// The file's block tables are those of the end: what was computed under others serves nobody.
TEST_F(SessionCacheTest, TokensOfOtherRolesServeNobody) {
    const auto session = open({});
    SparseOptions off, duo;  // some heads see a window only, without rings where the session began without it
    duo.preset = "duo";
    duo.overrides.window = 32;
    duo.calibration = std::make_shared<Calibration>(assume_calibration(session->shape()));
    session->prefill(tokens_);
    session->use_sparse(duo);
    session->save_cache(path("then duo"));
    session->truncate(0);
    session->prefill(tokens_);
    session->save_cache(path("duo"));
    session->use_sparse(off);
    session->save_cache(path("then off"));
    EXPECT_EQ(session->restore_cache(path("then off"), tokens_), 0u);
    EXPECT_EQ(open({})->restore_cache(path("then off"), tokens_), 0u);
    session->use_sparse(duo);
    EXPECT_EQ(session->restore_cache(path("then duo"), tokens_), 0u);
    EXPECT_EQ(session->restore_cache(path("duo"), tokens_), kTokens);
}

// Windows of 16 in rings.
TEST_F(SessionCacheTest, RingsAreRestoredWhereTheyStillReach) {
    std::vector<float> wanted;
    {
        const auto session = open({"gemma.gguf"});
        session->prefill(tokens_);
        session->save_cache(path("cache"));
        wanted = continued(*session);
    }
    const auto session = open({"gemma.gguf"});
    EXPECT_EQ(session->restore_cache(path("cache"), std::span(tokens_).first(50)), 0u);  // overwritten long since
    EXPECT_EQ(session->n_cached(), 0u);
    EXPECT_EQ(session->restore_cache(path("cache"), tokens_), kTokens);
    EXPECT_EQ(session->truncate(50), 0u);  // rings know how far they had come
    EXPECT_EQ(session->restore_cache(path("cache"), tokens_), kTokens);
    EXPECT_EQ(continued(*session), wanted);
}

// Rings of three blocks. 250 tokens end in block 3, so that block 1 is the oldest that is held; the steps queued behind
// them in block 4, which takes the place of block 1.
TEST_F(SessionCacheTest, WhatSurplusStepsOverwroteIsNotHeld) {
    Settings gemma{"gemma.gguf"};
    gemma.steps_in_flight = 32;
    const auto session = open(gemma);
    const std::uint32_t back = 100;
    session->prefill(std::span(tokens_).first(250));
    EXPECT_EQ(session->n_kept(back), back);
    answer_shortly(*session, tokens_[250]);
    EXPECT_EQ(session->n_cached(), 251u);
    EXPECT_EQ(session->n_kept(back), 0u);
    EXPECT_EQ(session->n_kept(150), 150u);
    const std::vector<std::uint16_t> keys = session->cached_keys(0);
    const auto is_zero = [&](std::uint32_t token) {
        const std::size_t row = keys.size() / 251;
        return std::all_of(keys.begin() + token * row, keys.begin() + (token + 1) * row,
                           [](std::uint16_t key) { return key == 0; });
    };
    EXPECT_TRUE(is_zero(64));
    EXPECT_FALSE(is_zero(128));
    session->save_cache(path("cache"));
    EXPECT_EQ(open(gemma)->restore_cache(path("cache"), std::span(tokens_).first(back)), 0u);
    EXPECT_EQ(session->truncate(back), 0u);
    // As far as the answer went, it can go on.
    session->prefill(std::span(tokens_).first(250));
    answer_shortly(*session, tokens_[250]);
    gemma.steps_in_flight = 1;
    const auto slow = open(gemma);
    slow->prefill(std::span(tokens_).first(250));
    answer_shortly(*slow, tokens_[250]);
    EXPECT_EQ(slow->n_kept(back), back);
    EXPECT_EQ(continued(*session), continued(*slow));
}

// Chunks of 8 make rings of two blocks: as many steps as are asked for would overwrite all of the window.
TEST_F(SessionCacheTest, NoMoreStepsAreQueuedThanRingsHold) {
    std::vector<std::vector<float>> answers;
    for (const std::uint32_t n : {1u, 128u}) {
        Settings gemma{"gemma.gguf"};
        gemma.n_chunk = 8;
        gemma.steps_in_flight = n;
        const auto session = open(gemma);
        session->prefill(std::span(tokens_).first(150));
        answer_shortly(*session, tokens_[150]);
        EXPECT_EQ(session->n_kept(151), 151u);
        answers.push_back(continued(*session));
    }
    EXPECT_EQ(answers[0], answers[1]);
}

TEST_F(SessionCacheTest, WhatDoesNotFitIsRefusedAndChangesNothing) {
    std::vector<float> wanted;
    {
        const auto session = open({});
        session->prefill(tokens_);
        session->save_cache(path("cache"));
        wanted = continued(*session);
    }
    const auto refused = [&](const Settings& settings) {
        return message(*open(settings), path("cache"), ErrorCode::kBadFile);
    };
    EXPECT_THAT(refused({"other.gguf"}), HasSubstr("another model"));
    EXPECT_THAT(refused({"llama.gguf", KvType::kQ8_0}), HasSubstr("another cache type"));
    EXPECT_THAT(refused({"llama.gguf", KvType::kF16, "streaming"}), HasSubstr("rings"));

    const auto session = open({});
    session->prefill(tokens_);
    const std::string whole = read("cache");
    const auto damaged = [&](const std::string& bytes, ErrorCode code = ErrorCode::kBadFile) {
        write("damaged", bytes);
        return message(*session, path("damaged"), code);
    };
    for (const std::size_t n : {8u, 40u, 56u, 90u, 400u, 5000u})
        EXPECT_THAT(damaged(whole.substr(0, n)), HasSubstr("damaged"));
    EXPECT_THAT(damaged(whole.substr(0, whole.size() - 1)), HasSubstr("length"));
    EXPECT_THAT(damaged(whole + "x"), HasSubstr("length"));
    EXPECT_THAT(damaged("", ErrorCode::kInvalidArgument), HasSubstr("no prompt cache"));
    EXPECT_THAT(damaged("a letter to somebody", ErrorCode::kInvalidArgument), HasSubstr("no prompt cache"));
    EXPECT_THAT(message(*session, path("missing"), ErrorCode::kIo), HasSubstr("missing"));
    EXPECT_THAT(message(*session, path(""), ErrorCode::kInvalidArgument), HasSubstr("no prompt cache"));
    // Each byte of the header, the head table and some of the rest.
    for (std::size_t at = 0; at < whole.size(); at += at < 140 ? 1 : 9973) {
        std::string bytes = whole;
        bytes[at] = static_cast<char>(bytes[at] ^ 0x41);
        damaged(bytes, at < 8 ? ErrorCode::kInvalidArgument : ErrorCode::kBadFile);
    }
    // Sizes that somebody made up, under a checksum that is right: n_tokens, n_written and n_dense stand at 48.
    using Sizes = std::array<std::uint32_t, 3>;
    for (const Sizes& sizes : {Sizes{0, 300, 0}, Sizes{0xffffffffu, 0xffffffffu, 0}, Sizes{1u << 30, 1u << 30, 300},
                               Sizes{(1u << 30) + 1, (1u << 30) + 1, 300}, Sizes{300, 299, 300}, Sizes{301, 300, 300},
                               Sizes{364, 364, 300}, Sizes{300, 300, 301}}) {
        std::string bytes = whole;
        bytes.replace(48, sizeof sizes, reinterpret_cast<const char*>(sizes.data()), sizeof sizes);
        const XXH64_hash_t digest = XXH3_64bits(bytes.data(), bytes.size() - sizeof(XXH64_hash_t));
        bytes.replace(bytes.size() - sizeof digest, sizeof digest, reinterpret_cast<const char*>(&digest),
                      sizeof digest);
        EXPECT_THAT(damaged(bytes), HasSubstr("damaged")) << sizes[0];
    }
    EXPECT_EQ(continued(*session), wanted);  // no attempt left a trace
}

TEST_F(SessionCacheTest, ANewFileIsItsOwnersAlone) {
    const auto session = open({});
    session->prefill(std::span(tokens_).first(10));
    const mode_t before = umask(022);
    const auto mode = [&] { return std::filesystem::status(path("cache")).permissions(); };
    session->save_cache(path("cache"));
    EXPECT_EQ(mode(), std::filesystem::perms{0600});
    std::filesystem::permissions(path("cache"), std::filesystem::perms{0664});
    session->save_cache(path("cache"));
    EXPECT_EQ(mode(), std::filesystem::perms{0664});
    umask(before);
}

TEST_F(SessionCacheTest, SavingReplacesPromptCachesOnly) {
    const auto session = open({});
    EXPECT_THROW(session->save_cache(path("cache")), Error);  // empty
    session->prefill(std::span(tokens_).first(10));
    write("letter", "a letter to somebody");
    EXPECT_THROW(session->save_cache(path("letter")), Error);
    EXPECT_EQ(read("letter"), "a letter to somebody");
    EXPECT_THROW(session->save_cache(path("no/folder")), Error);
    EXPECT_THROW(session->save_cache("/dev/null"), Error);
    write("cache", "");
    session->save_cache(path("cache"));
    session->prefill(std::span(tokens_).subspan(10, 10));
    std::filesystem::create_symlink("cache", path("link"));
    session->save_cache(path("link"));
    EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
    EXPECT_EQ(session->restore_cache(path("cache"), tokens_), 20u);
    EXPECT_EQ(folder_.count(), 6u);  // three models, a letter, the cache and a link to it
}

}  // namespace
}  // namespace winnow::test
