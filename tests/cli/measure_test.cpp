// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"
#include "winnow/sparse.h"

namespace winnow::test {
namespace {

using nlohmann::json;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Matcher;

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
    const json list = parsed({"info", "--policies", "--json"});
    const std::vector<PresetInfo>& presets = sparse_presets();  // what they say is tested with the presets
    ASSERT_EQ(list.size(), presets.size());
    std::istringstream lines(table.out);
    std::string head, line;
    std::getline(lines, head);
    for (std::size_t i = 0; i < presets.size(); ++i) {
        const PresetInfo& p = presets[i];
        std::getline(lines, line);
        EXPECT_TRUE(line.starts_with(std::string(p.name) + " ")) << line;
        // However long another column is.
        for (const auto& [column, value] : {std::pair{"paper", p.paper}, {"schedule", p.schedule}})
            EXPECT_EQ(line.substr(head.find(column), value.size()), value) << line;
        for (const auto& [key, value] : {std::pair{"name", p.name},
                                         {"scorer", p.scorer},
                                         {"filter", p.filter},
                                         {"budget", p.budget},
                                         {"schedule", p.schedule},
                                         {"paper", p.paper}}) {
            EXPECT_EQ(list[i][key], std::string(value)) << p.name;
            EXPECT_THAT(table.out, HasSubstr(std::string(value))) << p.name;
        }
    }
}

TEST_F(Measure, BenchMakesAModelOfAShape) {
    const json rows = parsed(
        {"bench", "--shape", "135m", "--type", "q8_0", "-p", "4", "-n", "2", "-r", "1", "--stages", "-o", "json"});
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_EQ(rows[0]["model_type"], "llama 135M Q8_0 random");
    EXPECT_EQ(rows[0]["model_n_params"], 134515008u);
    EXPECT_EQ(rows[0]["sparse"], "off");
    for (const json& row : rows) EXPECT_GT(row["avg_ts"].get<double>(), 0);
    EXPECT_FALSE(rows[0].contains("stages"));  // of a decode step only
    EXPECT_GT(rows[1]["stages_us"]["qkv"].get<double>(), 0);
    EXPECT_GT(rows[1]["copy_gbps"].get<double>(), 0);
    double bytes = 0;
    for (const json& stage : rows[1]["stages"]) {
        bytes += stage["bytes"].get<double>();
        if (stage["stage"] == "attend_dense" || stage["stage"] == "qkv") {
            EXPECT_EQ(stage["dispatches"], 30);
        }
        if (stage["stage"] == "down") {
            EXPECT_EQ(stage["bytes"], 30 * 576 * 1536 / 32 * 34);
        }
    }
    EXPECT_NEAR(bytes, rows[1]["bytes_per_token"].get<double>(), 0.01 * bytes);
}

TEST_F(Measure, BenchReportsWhatSparseAttentionReads) {
    const std::vector<std::string> base{"bench", "--shape", "135m", "-p", "0",   "-n",
                                        "2",     "-r",      "1",    "-d", "700", "--no-warmup"};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.begin(), base.begin(), base.end());
        return more;
    };
    const std::vector<std::string> quest{"--sparse", "quest", "--sparse-budget", "128", "--audit", "full", "-o"};
    std::vector<std::string> arguments = with(quest);
    arguments.push_back("json");
    arguments.push_back("--stages");
    const json row = parsed(arguments).at(0);
    EXPECT_EQ(row["sparse"], "quest");
    EXPECT_EQ(row["sparse_budget"], 128);
    EXPECT_TRUE(row["sparse_mass"].is_null());
    EXPECT_GT(row["sparse_kept"].get<double>(), 0.1);
    EXPECT_LT(row["sparse_kept"].get<double>(), 0.5);
    EXPECT_GT(row["captured_mass"].get<double>(), 0);
    EXPECT_LE(row["captured_mass_min"].get<double>(), row["captured_mass"].get<double>());
    std::vector<std::string> stages;
    double bytes = 0;
    for (const json& stage : row["stages"]) {
        stages.push_back(stage["stage"]);
        bytes += stage["bytes"].get<double>();
    }
    EXPECT_THAT(stages, Contains("attend_dense"));
    EXPECT_THAT(stages, AnyOf(Contains("indexer_score"), Contains("select_attend")));  // which may score itself
    EXPECT_THAT(stages, on_software_driver()
                            ? Matcher<std::vector<std::string>>(Contains("attend_sparse"))
                            : AnyOf(Contains("attend_sparse"), Contains("select_attend")));  // whichever pays
    EXPECT_NEAR(bytes, row["bytes_per_token"].get<double>(), 0.02 * bytes);

    const Outcome table = run_program(with({"--sparse", "exact", "--sparse-mass", "0.5"}));
    EXPECT_EQ(table.status, 0) << table.err;
    EXPECT_THAT(table.out, HasSubstr("| exact "));
    EXPECT_THAT(table.out, HasSubstr("attended |"));
    EXPECT_EQ(table.out.find("captured"), std::string::npos);  // nothing was audited
    const Outcome csv = run_program(with({"--sparse", "streaming", "--sparse-window", "64", "-o", "csv"}));
    EXPECT_EQ(csv.status, 0) << csv.err;
    EXPECT_THAT(csv.out, HasSubstr(",sparse,sparse_mass,sparse_budget,sparse_kept,captured_mass"));
    EXPECT_THAT(csv.out, HasSubstr("\"streaming\",\"\",\"\",\"0."));
}

// Windowed layers keep little of a deep cache: it has to be made anew for each run.
TEST_F(Measure, BenchGoesToADepthWithWindowedLayers) {
    const json rows = parsed({"bench", "-m", Files::shared().tiny_gemma(), "-p", "8", "-n", "8", "-d", "0,160", "-r",
                              "2", "--sparse", "exact", "--sparse-min-ctx", "0", "-o", "json"});
    ASSERT_EQ(rows.size(), 4u);
    EXPECT_EQ(rows[3]["n_depth"], 160);
    EXPECT_GT(rows[3]["sparse_kept"].get<double>(), 0);
    EXPECT_TRUE(rows[2]["sparse_kept"].is_null());
}

TEST_F(Measure, EvalComparesPresetsWithDense) {
    const Files& files = Files::shared();
    TinyOptions options;
    options.n_ctx = 1024;
    const std::vector<std::byte> bytes = make_tiny_gguf(options);
    const std::string model = files.write("eval.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    std::string words;
    for (int i = 0; i < 400; ++i) words += "the " + std::to_string(i * 7919 % 1000) + " rivers ";
    const std::string text = files.write("eval.txt", words), rows_file = files.path("rows.json"),
                      plot = files.path("rows.svg");
    const std::vector<std::string> call{"eval", "-m", model, "-f", text, "--positions", "16", "--presets"};
    const auto with = [&](std::vector<std::string> more) {
        std::vector<std::string> all = call;
        all.insert(all.end(), more.begin(), more.end());
        return run_program(all);
    };
    const Outcome made = with({"exact,dense,streaming", "--sparse-window", "128", "-c", "960", "-lv", "3", "--json",
                               rows_file, "--plot", plot});
    ASSERT_EQ(made.status, 0) << made.err;
    EXPECT_THAT(made.out, HasSubstr("| exact | 960 |"));
    const json rows = json::parse(files.read("rows.json"));
    ASSERT_EQ(rows.size(), 3u);
    // 15 blocks; streaming keeps one of sinks and, with chunks of 64, a ring of four.
    EXPECT_EQ(rows[0]["kv_bytes"], rows[1]["kv_bytes"]);
    EXPECT_NEAR(rows[2]["kv_bytes"].get<double>() / rows[1]["kv_bytes"].get<double>(), 5.0 / 15, 0.01);
    for (const char* key :
         {"preset", "n_ctx", "nll_delta", "kl_mean", "kl_p99", "top1_agree", "long_range_gain", "copy_acc",
          "needle_nll_delta", "mass_mean", "mass_p5", "mass_min", "attended_share", "bytes_per_token", "kv_bytes"})
        EXPECT_TRUE(rows[0].contains(key)) << key;
    EXPECT_GE(rows[0]["mass_min"].get<double>(), 0.95 - 1e-3);  // exact is honest
    EXPECT_LT(rows[0]["attended_share"].get<double>(), 1);
    EXPECT_TRUE(rows[1]["mass_mean"].is_null());  // dense: nothing was audited
    EXPECT_THAT(made.out, HasSubstr("| dense | 960 | 1.000 | - | - | - |"));
    EXPECT_NEAR(rows[1]["nll_delta"].get<double>(), 0, 1e-6);
    EXPECT_EQ(rows[1]["top1_agree"], 1.0);
    EXPECT_THAT(files.read("rows.svg"), HasSubstr("</svg>"));

    // auto is calibrated for, not silently exact.
    Program::Options cache;
    cache.environment["XDG_CACHE_HOME"] = files.path("eval-cache");
    std::vector<std::string> automatic = call;
    for (const char* word : {"auto", "-c", "512"}) automatic.push_back(word);
    const Outcome calibrated = run_program(automatic, "", cache);
    EXPECT_EQ(calibrated.status, 2);  // too short for the probes, which is found after it
    EXPECT_THAT(calibrated.err, HasSubstr("no calibration of this model yet"));

    expect_error(with({"exact", "-c", "300"}), 2, "use -c 512 or more");
    expect_error(with({"exact", "-c", "512"}), 2, "too short for the probe of needles");
    expect_error(with({"exact,nonsense", "-c", "960"}), 2, "unknown sparse preset 'nonsense'");
    expect_error(run_program({"eval", "-m", model, "-f", files.write("few.txt", "a few words"), "-c", "960",
                              "--presets", "exact"}),
                 2, "longer text");
}

TEST_F(Measure, InfoPlansAShapeWithoutItsWeights) {
    const json plan = parsed({"info", "--shape", "8b", "-c", "131072", "--sparse", "rtpurbo", "--json"});
    EXPECT_EQ(plan["n_ctx"], 131072);
    EXPECT_GT(plan["weight_bytes"].get<std::uint64_t>(), 4500000000u);
    EXPECT_GT(plan["index_bytes"].get<std::uint64_t>(), 0u);
    EXPECT_EQ(plan["model"]["n_params"], 8030261248u);
    const json small = parsed({"info", "--shape", "135m", "--type", "q8_0", "-c", "512", "--json"});
    EXPECT_EQ(small["fits"], true);
    EXPECT_EQ(small["index_bytes"], 0);
    EXPECT_EQ(
        small["total_bytes"].get<double>(),
        small["weight_bytes"].get<double>() + small["kv_bytes"].get<double>() + small["scratch_bytes"].get<double>());
    const Outcome text = run_program({"info", "--shape", "1b", "-c", "4096"});
    EXPECT_EQ(text.status, 0) << text.err;
    EXPECT_THAT(text.out, HasSubstr("1.24 B parameters, not loaded"));
    expect_error(run_program({"info", "--shape", "8b", "-m", "x.gguf"}), 2, "not both");
    expect_error(run_program({"info", "--shape", "8b", "-c", "200000"}), 2, "131072");
}

TEST_F(Measure, InfoPlansWhatDoesNotFit) {
    const Files& files = Files::shared();
    TinyOptions options;
    options.n_ctx = 1u << 24;
    const std::vector<std::byte> bytes = make_tiny_gguf(options);
    const std::string model = files.write("endless.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    const json plan = parsed({"info", "-m", model, "-c", "16777216", "-ctk", "f32", "--json"});
    EXPECT_EQ(plan["fits"], false);
    EXPECT_EQ(plan["n_ctx"], 1u << 24);
    EXPECT_EQ(plan["kv_full_bytes"].get<std::uint64_t>(), std::uint64_t{2 * 2 * 2 * 32 * 4} << 24);
    EXPECT_FALSE(plan.contains("n_dependent_dispatches"));
    const Outcome text = run_program({"info", "-m", model, "-c", "16777216", "-ctk", "f32"});
    EXPECT_EQ(text.status, 0) << text.err;
    EXPECT_THAT(text.out, HasSubstr("more than this device offers"));
}

TEST_F(Measure, InfoSplitsTheCacheIntoFullHeadsAndRings) {
    const std::vector<std::string> call{"info", "-m", Files::shared().tiny_gemma(), "-c", "256", "-ub", "64"};
    std::vector<std::string> as_json = call;
    as_json.push_back("--json");
    const json plan = parsed(as_json);
    const auto bytes = [&](const char* name) { return plan[name].get<std::uint64_t>(); };
    EXPECT_EQ(bytes("kv_full_bytes"), 2u * 2 * 256 * 32 * 2);  // K and V of 2 heads in the one layer without a window
    EXPECT_GT(bytes("kv_ring_bytes"), 0u);
    EXPECT_LT(bytes("kv_ring_bytes"), bytes("kv_full_bytes"));
    EXPECT_EQ(bytes("kv_bytes"), bytes("kv_full_bytes") + bytes("kv_ring_bytes") + bytes("kv_table_bytes"));
    EXPECT_THAT(run_program(call).out, HasSubstr("the cache: full heads 0.06 MiB, rings "));
    EXPECT_EQ(parsed({"info", "-m", Files::shared().tiny(), "--json"})["kv_ring_bytes"], 0);
}

TEST_F(Measure, InfoNamesFeaturesAndVariants) {
    const json device = parsed({"info", "--shape", "135m", "-c", "512", "-ctk", "f32", "--json"})["device"];
    EXPECT_EQ(device["features"].size() + device["missing_features"].size(), on_software_driver() ? 6u : 5u);
    EXPECT_EQ(device["cache_variant"], "f32");
    ASSERT_EQ(device["variants"].size(), 3u);
    EXPECT_EQ(device["variants"][0]["stage"], "matmul");
    EXPECT_THAT(device["variants"][1]["chosen"], AnyOf("attend_prefill_f32", "attend_prefill_texel_f32"));
    EXPECT_EQ(device["variants"][1]["reason"], "it reads no cache of f32");
    EXPECT_EQ(device["variants"][2]["stage"], "attend_dense");
    EXPECT_THAT(device["variants"][2]["chosen"], AnyOf("attend_dense_f32", "attend_dense_f32_texel"));
    EXPECT_EQ(device["variants"][2]["reason"], "it reads no cache of f32");
    const Outcome devices = run_program({"info"});
    EXPECT_EQ(devices.status, 0) << devices.err;
    EXPECT_THAT(devices.out, HasSubstr("features   "));
    EXPECT_THAT(devices.out, HasSubstr("variants   *_f16 of"));
    EXPECT_THAT(devices.out, HasSubstr(", not matmul"));
    EXPECT_THAT(devices.out, HasSubstr(", not attend_dense_f16"));
}

// Of a decode step the device's best, or the one that the variable names.
TEST_F(Measure, InfoNamesTheVariantOfDecodeAttention) {
    const auto choice = [](const std::string& forced) {
        Program::Options options;
        options.environment["WINNOW_FORCE_VARIANT"] = forced;
        const Outcome outcome = run_program({"info", "--shape", "8b", "-c", "4096", "--json"}, "", options);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return json::parse(outcome.out, nullptr, false)["device"]["variants"][2];
    };
    const json best = choice("");
    EXPECT_EQ(best["stage"], "attend_dense");
    if (on_software_driver()) {
        EXPECT_EQ(best["chosen"], "attend_dense_f16_texel");
        EXPECT_EQ(best["refused"], "attend_dense_f16_matrix");
    } else {
        EXPECT_THAT(best["chosen"], AnyOf("attend_dense_f16", "attend_dense_f16_matrix"));
    }
    EXPECT_NE(best["chosen"], best["refused"]);
    EXPECT_NE(best["reason"], "");
    const json lanes = choice("attend_dense_f16");
    EXPECT_EQ(lanes["chosen"], "attend_dense_f16");
    EXPECT_EQ(lanes["refused"], "attend_dense_f16_matrix");
    if (best["chosen"] == "attend_dense_f16_matrix") {
        EXPECT_EQ(lanes["reason"], "WINNOW_FORCE_VARIANT names the other");
    }
}

// A card that is named is a GPU, whose chunks are longer than those of a software driver: its scratch is larger.
TEST_F(Measure, InfoSaysWhatItsScratchIsFor) {
    const auto info = [](std::vector<std::string> more) {
        more.insert(more.begin(), {"info", "--shape", "135m"});
        const Outcome outcome = run_program(more);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome.out;
    };
    EXPECT_EQ(parsed({"info", "--shape", "135m", "--fit", "8GiB", "--json"})["n_chunk"], 512);
    EXPECT_THAT(info({"--fit", "8GiB"}), HasSubstr(" (prefill by 512 tokens)\n"));
    EXPECT_THAT(info({"--fit", "8GiB"}), HasSubstr("\ncard       8.00 GiB: what follows is for a GPU of that size"));
    EXPECT_THAT(info({"-c", "512", "-ub", "96"}), HasSubstr(" (prefill by 96 tokens)\n"));
    // A need is rounded up: "75 MiB needed, 75 there" would be no reason.
    expect_error(run_program({"info", "--shape", "135m", "--fit", "75MiB"}), 5, "need 76 MiB (");
    EXPECT_THAT(info({"--fit", "76MiB"}), HasSubstr("\ncontext    64 tokens"));
    EXPECT_THAT(info({"--fit"}), Not(HasSubstr("\ncard ")));
    const std::vector<std::string> opened{"info", "-m", Files::shared().tiny(), "-ub", "32", "--json"};
    EXPECT_EQ(parsed(opened)["n_chunk"], 32);
}

// The shape and the share of retrieval heads of SmolLM2, with the chunks of a GPU.
TEST_F(Measure, InfoKeepsRingsSmallInShortContexts) {
    const auto share = [](std::vector<std::string> more) {
        std::vector<std::string> all{"info",    "--shape",           "135m",   "-c",    "8192", "--sparse",
                                     "rtpurbo", "--retrieval-share", "0.3556", "--json"};
        all.insert(all.end(), more.begin(), more.end());
        return parsed(all)["kv_share"].get<double>();
    };
    for (const char* chunk : {"64", "512"}) {
        EXPECT_LE(share({"--ub", chunk}), 0.45) << chunk;
        EXPECT_LE(share({"--ub", chunk, "-ctk", "q8_0", "-ctv", "q8_0"}), 0.25) << chunk;
    }
}

// With the chunks of a small card: those of a large one take 0.2 GB more.
TEST_F(Measure, InfoPlans128KOfAnEightBillionModelIntoEightGigabytes) {
    const json plan = parsed({"info", "--shape", "8b", "--type", "q4_0", "-c", "131072", "--sparse", "rtpurbo", "-ctk",
                              "q8_0", "-ctv", "q8_0", "-ub", "512", "--json"});
    EXPECT_LE(plan["total_bytes"].get<double>(), 8.0e9);
    EXPECT_NEAR(plan["retrieval_share"].get<double>(), 0.28, 0.01);
    EXPECT_EQ(plan["retrieval_share_assumed"], true);
    const auto index_bytes = [](const char* type) {
        return parsed({"info", "--shape", "8b", "-c", "32768", "--sparse", "rtpurbo", "--index-type", type,
                       "--json"})["index_bytes"]
            .get<double>();
    };
    EXPECT_LT(index_bytes("int8"), 0.7 * index_bytes("f16"));  // lists and scores stay as they are
    EXPECT_EQ(parsed({"info", "--shape", "8b", "--sparse", "duo", "--retrieval-share", "0.5", "-c", "8192",
                      "--json"})["retrieval_share"],
              0.5);
}

TEST_F(Measure, InfoFindsTheLongestContextThatFits) {
    const auto fit = [](std::vector<std::string> more) {
        std::vector<std::string> arguments{"info", "--shape", "8b", "--json", "--fit"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return parsed(arguments);
    };
    const json dense = fit({"8GB"}), sparse = fit({"8GB", "--sparse", "rtpurbo", "-ctk", "q8_0", "-ctv", "q8_0"});
    EXPECT_LE(dense["total_bytes"].get<double>(), 8e9);
    EXPECT_GT(dense["total_bytes"].get<double>(), 7.95e9);
    EXPECT_EQ(dense["fits"], true);
    EXPECT_EQ(dense["n_ctx"].get<int>() % 64, 0);
    EXPECT_GT(sparse["n_ctx"].get<int>(), 4 * dense["n_ctx"].get<int>());
    EXPECT_LE(sparse["total_bytes"].get<double>(), 8e9);
    EXPECT_EQ(fit({"40GiB"})["n_ctx"], 131072);  // no more than the model was trained for
    const json here = parsed({"info", "-m", Files::shared().tiny(), "--fit", "--json"});
    EXPECT_EQ(here["n_ctx"], 256);
    EXPECT_FALSE(here.contains("n_dependent_dispatches"));  // nothing was loaded
    expect_error(run_program({"info", "--shape", "8b", "--fit", "4GB"}), 5, "no context fits");
    expect_error(run_program({"info", "--shape", "8b", "--fit", "8XB"}), 2, "--fit");
    expect_error(run_program({"info", "--shape", "8b", "--fit", "8GB", "-c", "4096"}), 2, "not both");
    expect_error(run_program({"info", "--fit", "8GB"}), 2, "needs a model");
}

TEST_F(Measure, BenchRefusesBadShapes) {
    for (const auto& [arguments, needle] : std::vector<std::pair<std::vector<std::string>, std::string>>{
             {{"bench"}, "--shape 8b"},
             {{"bench", "--shape", "135m", "--type", "q4_k"}, "use q4_0"},
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
    const std::vector<std::string> base{"perplexity", "-m",  model,       "-p", text(),
                                        "-c",         "128", "--windows", "2",  "--json"};
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
    EXPECT_NEAR(whole["nll_delta"].get<double>(), 0, 1e-5);
    // The cache keeps everything for the dense half, though streaming alone would keep a ring.
    const json few = with({"-c", "192", "--windows", "1", "--sparse", "streaming", "--sparse-window", "64"});
    const double dense_once = with({"-c", "192", "--windows", "1"})["ppl"].get<double>();
    EXPECT_NEAR(few["ppl_dense"].get<double>(), dense_once, 1e-4 * dense_once);
    EXPECT_LT(few["attended_share"].get<double>(), 0.95);
    EXPECT_GT(few["kl_mean"].get<double>(), 0);
    EXPECT_FALSE(few.contains("mass_mean"));
    const Outcome text_form = run_program({"perplexity", "-m", model, "-p", text(), "-c", "96", "--windows", "1",
                                           "--sparse", "exact", "--audit", "full"});
    EXPECT_EQ(text_form.status, 0) << text_form.err;
    EXPECT_THAT(text_form.out, HasSubstr("KL(dense || sparse)"));
    EXPECT_THAT(text_form.out, HasSubstr("of the attention captured"));
    expect_error(run_program({"perplexity", "-m", model, "-p", text(), "--sparse", "fast"}), 2,
                 "unknown sparse preset");
    expect_error(run_program({"perplexity", "-m", model, "-p", text(), "-c", "96", "--sparse", "rtpurbo"}), 2,
                 "calibrat");
    const Outcome refused =
        run_program({"perplexity", "-m", model, "-p", text(), "--sparse", "exact", "--logits-out", "x.npy"});
    EXPECT_EQ(refused.status, 2);
    EXPECT_THAT(refused.err, HasSubstr("--logits-out"));
}

TEST_F(Measure, PerplexityComparesWithSavedLogits) {
    const Files& files = Files::shared();
    const std::string model = files.tiny(), base = files.path("base.npy");
    const auto call = [&](std::vector<std::string> more) {
        more.insert(more.begin(), {"perplexity", "-m", model, "-p", text(), "-c", "64", "--windows", "2",
                                   "--kl-divergence-base", base});
        return more;
    };
    EXPECT_EQ(run_program(call({})).status, 0);
    const json same = parsed(call({"--kl-divergence", "--json"}));
    EXPECT_NEAR(same["kl_base_max"].get<double>(), 0, 1e-5);  // chunks of the prefill may differ
    EXPECT_EQ(same["top1_agree_base"], 1.0);
    EXPECT_NEAR(same["ppl_base"].get<double>(), same["ppl"].get<double>(), 1e-3 * same["ppl"].get<double>());
    const json coarse = parsed(call({"--kl-divergence", "--json", "-ctk", "q4_0"}));
    EXPECT_GT(coarse["kl_base_mean"].get<double>(), 1e-6);
    EXPECT_GE(coarse["kl_base_max"].get<double>(), coarse["kl_base_p99"].get<double>());
    EXPECT_EQ(coarse["ppl_base"], same["ppl_base"]);
    // The dense half of a sparse run is the base that was saved, up to the order of the sums.
    const json sparse = parsed(call({"--kl-divergence", "--json", "--sparse", "streaming", "--sparse-window", "16"}));
    EXPECT_GT(sparse["kl_base_mean"].get<double>(), 0);
    EXPECT_NEAR(sparse["kl_base_mean"].get<double>(), sparse["kl_mean"].get<double>(), 1e-3);
    const Outcome words = run_program(call({"--kl-divergence"}));
    EXPECT_THAT(words.out, HasSubstr("KL(base || this) mean 0.0000"));

    expect_error(run_program(call({"--kl-divergence", "-c", "32"})), 2,
                 "has logits of 128 tokens and 320 ids, here are 64");
    expect_error(run_program({"perplexity", "-m", model, "-p", text(), "--kl-divergence"}), 2, "--kl-divergence-base");
    expect_error(run_program({"perplexity", "-m", model, "-p", text(), "--kl-divergence", "--kl-divergence-base",
                              files.write("no.npy", "no logits")}),
                 2, "has no logits");
    expect_error(run_program({"perplexity", "-m", model, "-p", text(), "--kl-divergence", "--kl-divergence-base",
                              files.path("none.npy")}),
                 1, "none.npy");
    // A shape that nothing but its header knows of allocates nothing.
    std::string huge = files.read("base.npy").substr(0, 2000);
    const std::string shape = "(128, 320), ";
    ASSERT_NE(huge.find(shape), std::string::npos);
    huge.replace(huge.find(shape), shape.size() + 6, "(1, 1073741823), }");
    expect_error(run_program({"perplexity", "-m", model, "-p", text(), "--kl-divergence", "--kl-divergence-base",
                              files.write("huge.npy", huge)}),
                 1, "ends too early");
    files.write("base.npy", files.read("base.npy").substr(0, 20000));
    expect_error(run_program(call({"--kl-divergence"})), 1, "ends too early");
}

TEST_F(Measure, SparseLayersAndTheirReport) {
    const auto generate = [](std::vector<std::string> more) {
        more.insert(more.begin(), {"generate", "-m", Files::shared().tiny(), "-p", text().substr(0, 150), "-n", "4",
                                   "--temp", "0", "--sparse", "exact", "--sparse-mass", "0.5", "--sparse-window", "16",
                                   "--sparse-min-ctx", "0", "--sparse-report"});
        return run_program(more);
    };
    const Outcome both = generate({"--audit", "full"});
    EXPECT_EQ(both.status, 0) << both.err;
    EXPECT_THAT(both.err, HasSubstr(" sparse steps, "));
    EXPECT_THAT(both.err, HasSubstr("captured attention mass: mean "));
    EXPECT_THAT(both.err, HasSubstr("\n    0  select "));
    EXPECT_THAT(both.err, HasSubstr("\n    1  select "));
    for (const char* spec : {"1", "1-", "1-1"})
        EXPECT_THAT(generate({"--sparse-layers", spec}).err,
                    ::testing::AllOf(HasSubstr("\n    0  dense   100.00 %\n"), HasSubstr("\n    1  select ")))
            << spec;
    EXPECT_THAT(generate({"--sparse-layers", "0,1"}).err, HasSubstr("\n    0  select "));
    EXPECT_THAT(run_program({"generate", "-m", Files::shared().tiny(), "-p", "a", "-n", "1", "--sparse-report"}).err,
                HasSubstr("sparse attention is off"));
    for (const char* spec : {"2", "1-7"})
        expect_error(generate({"--sparse-layers", spec}), 2, "the model has 2 layers");
    for (const char* spec : {"x", "1-0", "0,", "-1", "0-4294967294", "0-4294967295"})
        expect_error(generate({std::string("--sparse-layers=") + spec}), 2, "--sparse-layers");
}

// A quantised cache changes the logits a little and takes half and a quarter of the bytes.
TEST_F(Measure, QuantisedCachesAreSmallerAndClose) {
    const std::string model = Files::shared().tiny();
    const auto bytes = [&](const char* type) {
        return parsed({"info", "-m", model, "-c", "256", "-ctk", type, "--json"})["kv_bytes"].get<double>();
    };
    const auto perplexity = [&](const char* type) {
        return parsed({"perplexity", "-m", model, "-p", text(), "-c", "128", "--windows", "1", "-ctk", type,
                       "--json"})["ppl"]
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
