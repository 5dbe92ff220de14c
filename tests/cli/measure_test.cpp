// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;
using nlohmann::json;

class Measure : public OnDevice {
protected:
    static json parsed(const std::vector<std::string>& arguments) {
        const Outcome outcome = run_program(arguments);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return json::parse(outcome.out, nullptr, false);
    }
    static std::string text() {
        std::string words;
        for (int i = 0; i < 300; ++i) words += "the " + std::to_string(i * 7919 % 1000) + " rivers ";
        return words;
    }
};

TEST_F(Measure, InfoListsThePolicies) {
    const Outcome table = run_program({"info", "--policies"});
    EXPECT_EQ(table.status, 0) << table.err;
    for (const char* name : {"quest", "twilight", "kascade", "rtpurbo"}) EXPECT_THAT(table.out, HasSubstr(name));
    EXPECT_THAT(table.out, HasSubstr("2406.10774"));
    const json list = parsed({"info", "--policies", "--json"});
    ASSERT_TRUE(list.is_array());
    for (const json& row : list)
        for (const char* key : {"name", "scorer", "filter", "budget", "schedule", "paper"})
            EXPECT_TRUE(row.contains(key)) << row;
}

TEST_F(Measure, BenchMakesAModelOfAShape) {
    const json rows = parsed({"bench", "--shape", "135m", "--type", "q8_0", "-p", "4", "-n", "2", "-r", "1",
                              "--stages", "-o", "json"});
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_EQ(rows[0]["model_type"], "llama 135M Q8_0 random");
    EXPECT_EQ(rows[0]["model_n_params"], 134515008u);
    for (const json& row : rows) EXPECT_GT(row["avg_ts"].get<double>(), 0);
    EXPECT_GT(rows[1]["stages_us"]["qkv"].get<double>(), 0);
}

TEST_F(Measure, BenchRefusesBadShapes) {
    for (const auto& [arguments, needle] : std::vector<std::pair<std::vector<std::string>, std::string>>{
             {{"bench", "--shape", "9b"}, "135m, 1b, 8b"},
             {{"bench", "--shape", "135m", "--type", "q3"}, "--type q3"},
             {{"bench", "--shape", "135m", "-m", "x.gguf"}, "not both"}}) {
        const Outcome outcome = run_program(arguments);
        EXPECT_EQ(outcome.status, 2) << outcome.err;
        EXPECT_THAT(outcome.err, HasSubstr(needle));
    }
}

TEST_F(Measure, PerplexityComparesSparseWithDense) {
    const std::string model = Files::shared().tiny();
    const std::vector<std::string> base{"perplexity", "-m", model, "-p", text(), "-c", "192", "--windows", "2", "--json"};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.begin(), base.begin(), base.end());
        return parsed(more);
    };
    const double dense = with({})["ppl"].get<double>();
    const json whole = with({"--sparse", "exact", "--sparse-mass", "1", "--sparse-min-ctx", "0", "--audit", "full"});
    EXPECT_NEAR(whole["ppl_dense"].get<double>(), dense, 1e-4 * dense);
    EXPECT_NEAR(whole["ppl"].get<double>(), dense, 1e-4 * dense);
    EXPECT_LT(std::abs(whole["kl_mean"].get<double>()), 1e-5);
    EXPECT_NEAR(whole["attended_share"].get<double>(), 1, 1e-6);
    EXPECT_NEAR(whole["mass_mean"].get<double>(), 1, 1e-5);
    const json few = with({"--sparse", "streaming", "--sparse-window", "64", "--sparse-min-ctx", "0"});
    EXPECT_LT(few["attended_share"].get<double>(), 0.95);
    EXPECT_GT(few["kl_mean"].get<double>(), 0);
    const Outcome refused = run_program({"perplexity", "-m", model, "-p", text(), "--sparse", "exact", "--logits-out", "x.npy"});
    EXPECT_EQ(refused.status, 2);
    EXPECT_THAT(refused.err, HasSubstr("--logits-out"));
}

// A quantised cache changes the logits a little and takes half and a quarter of the bytes.
TEST_F(Measure, QuantisedCachesAreSmallerAndClose) {
    const std::string model = Files::shared().tiny();
    const auto bytes = [&](const char* type) {
        return parsed({"info", "-m", model, "-c", "256", "-ctk", type, "--json"})["kv_bytes"].get<double>();
    };
    const auto perplexity = [&](const char* type) {
        return parsed({"perplexity", "-m", model, "-p", text(), "-c", "128", "--windows", "1", "-ctk", type, "--json"})["ppl"]
            .get<double>();
    };
    EXPECT_LT(bytes("q8_0"), 0.6 * bytes("f16"));
    EXPECT_LT(bytes("q4_0"), 0.35 * bytes("f16"));
    const double exact = perplexity("f32");
    EXPECT_NEAR(perplexity("f16"), exact, 0.01 * exact);
    EXPECT_NEAR(perplexity("q8_0"), exact, 0.03 * exact);
    EXPECT_NEAR(perplexity("q4_0"), exact, 0.3 * exact);
    EXPECT_NE(perplexity("q4_0"), exact);
    const Outcome refused = run_program({"info", "-m", model, "-ctk", "q8_0", "-ctv", "f16"});
    EXPECT_EQ(refused.status, 2);
    EXPECT_THAT(refused.err, HasSubstr("-ctk q8_0 with -ctv f16"));
}

}  // namespace
}  // namespace winnow::test
