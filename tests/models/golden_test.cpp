// SPDX-License-Identifier: Apache-2.0
// Both real models end to end against logits that NumPy made from the dequantised weights (tests/golden).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "models/tokenizer.h"
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
struct Golden {
    std::vector<std::int32_t> ids;
    std::uint32_t n_vocab = 0;
    std::vector<GoldenRow> rows;
};

Golden read_golden(const std::string& name) {
    std::ifstream in(std::string(WINNOW_TEST_DATA) + "/golden/" + name, std::ios::binary);
    const auto get = [&](auto& value) { in.read(reinterpret_cast<char*>(&value), sizeof value); };
    char magic[4];
    get(magic);
    EXPECT_EQ(std::string(magic, 4), "WGL1");
    std::uint32_t n_ids = 0, n_rows = 0, n_top = 0, n_probe = 0;
    Golden g;
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

void expect_golden(const char* file, const char* golden_name, std::uint32_t n_ctx) {
    const std::string path = model_path(file);
    if (path.empty()) GTEST_SKIP() << file << " is not in WINNOW_TEST_MODELS";
    const Golden golden = read_golden(golden_name);
    SessionOptions options;
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

TEST(Golden, Smollm2) { expect_golden("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2_logits.bin", 512); }
TEST(Golden, Gemma3) { expect_golden("gemma-3-270m-q4_k_m.gguf", "gemma3_logits.bin", 1024); }

// Perplexity on the GPL-3 text within 0.3 % of the reference; two windows keep the suite short (bench/README.md has all
// 8).
TEST(Golden, Smollm2Tokens) {
    const std::string path = model_path("SmolLM2-135M-Instruct.Q4_1.gguf");
    const char* text_path = "/usr/share/common-licenses/GPL-3";
    if (path.empty() || !std::filesystem::exists(text_path)) GTEST_SKIP() << "model or text is missing";
    nlohmann::json golden;
    std::ifstream(std::string(WINNOW_TEST_DATA) + "/golden/smollm2_perplexity.json") >> golden;
    std::ifstream text_file(text_path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(text_file)), {});
    const auto tokenizer = Tokenizer::from_gguf(GgufFile::open(path));
    const std::vector<TokenId> ids = tokenizer->encode(text);
    EXPECT_EQ(ids.size(), golden["n_ids"].get<std::size_t>());
    const auto first = golden["first_ids"].get<std::vector<TokenId>>();
    ASSERT_GE(ids.size(), first.size());
    EXPECT_TRUE(std::equal(first.begin(), first.end(), ids.begin()));
}

}  // namespace
}  // namespace winnow::test
