// SPDX-License-Identifier: Apache-2.0
// Both real models end to end against logits that NumPy made from the dequantised weights (tests/golden).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "models/tokenizer.h"
#include "tests/support/gpu_fixture.h"
#include "winnow/session.h"

namespace winnow::test {
namespace {

struct Probe {
    std::int32_t id;
    float logit;
};
struct GoldenRow {
    std::uint32_t position = 0;
    double logsumexp = 0;
    std::vector<Probe> top, probes;
};
struct GoldenLogits {
    std::vector<std::int32_t> ids;
    std::uint32_t n_vocab = 0;
    std::vector<GoldenRow> rows;
};

GoldenLogits read_golden(const std::string& name) {
    std::ifstream in(std::string(WINNOW_TEST_DATA) + "/golden/" + name, std::ios::binary);
    const auto get = [&](auto& value) { in.read(reinterpret_cast<char*>(&value), sizeof value); };
    char magic[4];
    get(magic);
    EXPECT_EQ(std::string(magic, 4), "WGL1");
    std::uint32_t n_ids = 0, n_rows = 0, n_top = 0, n_probe = 0;
    GoldenLogits g;
    for (std::uint32_t* n : {&n_ids, &n_rows, &n_top, &n_probe, &g.n_vocab}) get(*n);
    g.ids.resize(n_ids);
    for (std::int32_t& id : g.ids) get(id);
    g.rows.resize(n_rows);
    for (GoldenRow& row : g.rows) {
        get(row.position);
        get(row.logsumexp);
        row.top.resize(n_top);
        for (Probe& p : row.top) get(p);
        row.probes.resize(n_probe);
        for (Probe& p : row.probes) get(p);
    }
    EXPECT_TRUE(in.good());
    return g;
}

double logsumexp(std::span<const float> row) {
    const float largest = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (const float x : row) sum += std::exp(static_cast<double>(x) - largest);
    return largest + std::log(sum);
}

// KL(reference || row) over the reference's largest tokens and one bucket for the rest (a lower bound that misses
// nothing that matters: the bucket holds little).
double divergence(const GoldenRow& golden, std::span<const float> row) {
    const double lse = logsumexp(row);
    double kl = 0, rest_p = 1, rest_q = 1;
    for (const Probe& t : golden.top) {
        const double log_p = t.logit - golden.logsumexp;
        const double log_q = row[static_cast<std::size_t>(t.id)] - lse;
        kl += std::exp(log_p) * (log_p - log_q);
        rest_p -= std::exp(log_p);
        rest_q -= std::exp(log_q);
    }
    if (rest_p > 1e-9 && rest_q > 1e-9) kl += rest_p * std::log(rest_p / rest_q);
    return kl;
}

std::string model_path(const char* file) {
    const char* dir = std::getenv("WINNOW_TEST_MODELS");
    if (dir == nullptr) return {};
    const std::filesystem::path path = std::filesystem::path(dir) / file;
    return std::filesystem::exists(path) ? path.string() : std::string();
}

// Sessions have devices of their own, with validation; what these say counts when they have closed.
class Golden : public GpuTest {
protected:
    Golden() { options_.device = log_.device_options(); }
    void TearDown() override {
        log_.expect_silent();
        GpuTest::TearDown();
    }
    void expect_golden(const char* file, const char* golden_name, std::uint32_t n_ctx);

    ValidationLog log_;
    SessionOptions options_;
};

void Golden::expect_golden(const char* file, const char* golden_name, std::uint32_t n_ctx) {
    const std::string path = model_path(file);
    if (path.empty()) GTEST_SKIP() << file << " is not in WINNOW_TEST_MODELS";
    const GoldenLogits golden = read_golden(golden_name);
    SessionOptions options = options_;
    options.n_ctx = n_ctx;
    const auto session = Session::open(path, options);
    ASSERT_EQ(session->shape().n_vocab, golden.n_vocab);
    double kl = 0, error = 0, power = 0;
    const auto compare = [&](const GoldenRow& row, std::span<const float> logits) {
        kl += divergence(row, logits) / static_cast<double>(golden.rows.size());
        for (const Probe& p : row.probes) {
            const double d = logits[static_cast<std::size_t>(p.id)] - p.logit;
            error += d * d;
            power += static_cast<double>(p.logit) * p.logit;
        }
    };
    session->evaluate(golden.ids, [&](std::uint32_t first, std::span<const float> logits) {
        const std::size_t n = logits.size() / golden.n_vocab;
        for (const GoldenRow& row : golden.rows)
            if (row.position >= first && row.position < first + n)
                compare(row, logits.subspan((row.position - first) * golden.n_vocab, golden.n_vocab));
    });
    std::printf("%s: KL %.3g, NMSE %.3g\n", file, kl, error / power);
    EXPECT_LT(kl, 1e-4);
    EXPECT_LT(error / power, 5e-4);

    // The decode path chooses what the reference ranks first, at the last position.
    session->truncate(0);
    SamplingOptions greedy;
    greedy.temperature = 0;
    session->start(golden.ids, greedy, {}, 1);
    const auto token = session->next();
    ASSERT_TRUE(token.has_value());
    EXPECT_EQ(*token, golden.rows.back().top.front().id);
}

TEST_F(Golden, Smollm2) { expect_golden("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2_logits.bin", 512); }
TEST_F(Golden, Gemma3) { expect_golden("gemma-3-270m-q4_k_m.gguf", "gemma3_logits.bin", 1024); }
TEST_F(Golden, Gemma3InThreeScripts) { expect_golden("gemma-3-270m-q4_k_m.gguf", "gemma3_short_logits.bin", 64); }

constexpr const char* kText = "/usr/share/common-licenses/GPL-3";

std::string sha256_of(const std::string& path) {
    std::string digest(64, ' ');
    FILE* pipe = popen(("sha256sum < " + path).c_str(), "r");
    if (pipe == nullptr || std::fread(digest.data(), 1, digest.size(), pipe) != digest.size()) digest = "unknown";
    if (pipe != nullptr) pclose(pipe);
    return digest;
}

// FNV-1a, 64 bits, of the ids as little-endian i32.
std::string fnv1a64(std::span<const TokenId> ids) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const TokenId id : ids)
        for (int shift = 0; shift < 32; shift += 8)
            hash = (hash ^ (static_cast<std::uint32_t>(id) >> shift & 0xff)) * 0x100000001b3u;
    return fmt::format("{:016x}", hash);
}

// exp of the mean surprise at tokens n / 2 .. n of each of the first windows of n tokens.
double perplexity(Session& session, std::span<const TokenId> ids, std::size_t n, std::size_t n_windows) {
    const std::size_t n_vocab = session.shape().n_vocab, first = n / 2 - 1;
    double sum = 0;
    std::size_t n_scored = 0;
    for (std::size_t w = 0; w < n_windows; ++w) {
        const std::span<const TokenId> window = ids.subspan(w * n, n);
        session.truncate(0);
        session.prefill(window.first(first));
        session.evaluate(window.subspan(first), [&](std::uint32_t at, std::span<const float> logits) {
            for (std::size_t i = first + at; !logits.empty(); ++i, logits = logits.subspan(n_vocab)) {
                if (i + 1 == n) break;
                const std::span<const float> row = logits.first(n_vocab);
                sum += logsumexp(row) - row[static_cast<std::size_t>(window[i + 1])];
                ++n_scored;
            }
        });
    }
    EXPECT_EQ(n_scored, n_windows * n / 2);
    return std::exp(sum / static_cast<double>(n_scored));
}

// Two windows keep the suite short (bench/README.md has all 8).
TEST_F(Golden, Smollm2PerplexityOfTheGpl) {
    const std::string path = model_path("SmolLM2-135M-Instruct.Q4_1.gguf");
    if (path.empty()) GTEST_SKIP() << "SmolLM2-135M-Instruct.Q4_1.gguf is not in WINNOW_TEST_MODELS";
    if (!std::filesystem::exists(kText)) GTEST_SKIP() << "this system has no " << kText;
    nlohmann::json golden;
    std::ifstream(std::string(WINNOW_TEST_DATA) + "/golden/smollm2_perplexity.json") >> golden;
    if (const std::string sha = sha256_of(kText); sha != golden["text_sha256"])
        GTEST_SKIP() << kText << " is another edition, with the SHA-256 " << sha;
    std::ifstream text_file(kText, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(text_file)), {});
    const std::vector<TokenId> ids = Tokenizer::from_gguf(GgufFile::open(path))->encode(text);
    ASSERT_EQ(ids.size(), golden["n_ids"].get<std::size_t>());
    const auto first = golden["first_ids"].get<std::vector<TokenId>>();
    ASSERT_TRUE(std::equal(first.begin(), first.end(), ids.begin()));
    ASSERT_EQ(fnv1a64(ids), golden["ids_fnv1a64"]);

    constexpr std::size_t kWindows = 1;  // of 512 tokens: a minute and more on a software driver
    SessionOptions options = options_;
    options.n_ctx = golden["n_ctx"];
    const double expected = golden["running"][kWindows - 1];
    const double found = perplexity(*Session::open(path, options), ids, options.n_ctx, kWindows);
    std::printf("perplexity of %zu windows: %.4f, reference %.4f\n", kWindows, found, expected);
    EXPECT_NEAR(found / expected, 1, 0.003);
}

}  // namespace
}  // namespace winnow::test
