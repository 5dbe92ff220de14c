// SPDX-License-Identifier: Apache-2.0
// `winnow eval` on tiny models: what it compares must be the same tokens after the same cache.
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class Eval : public OnDevice {
protected:
    static std::string model(const std::string& name, const std::string& architecture, std::uint32_t n_ctx) {
        TinyOptions options;
        options.architecture = architecture;
        options.n_ctx = n_ctx;
        const std::vector<std::byte> bytes = make_tiny_gguf(options);
        return Files::shared().write(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    static std::string text() {
        std::string words;
        for (int i = 0; i < 800; ++i) words += "the " + std::to_string(i * 7919 % 1000) + " rivers ";
        return Files::shared().write("eval_text.txt", words);
    }
    static Outcome run(const std::string& path, std::vector<std::string> more) {
        more.insert(more.begin(), {"eval", "-m", path, "-f", text(), "-lv", "3"});  // says something now and then
        return run_program(more);
    }
    static json rows(const std::string& path, std::vector<std::string> more) {
        more.insert(more.end(), {"--json", Files::shared().path("eval_rows.json")});
        const Outcome outcome = run(path, more);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome.status == 0 ? json::parse(Files::shared().read("eval_rows.json"), nullptr, false)
                                   : json::array();
    }
};

// 120 positions are more than the rings of 16 tokens hold: to go back, the prompt has to be prefilled again.
TEST_F(Eval, DenseAgainstItselfIsNothingWithWindowedLayers) {
    const json list =
        rows(model("eval_gemma.gguf", "gemma3", 1024), {"--positions", "120", "-c", "960", "--presets", "dense"});
    ASSERT_EQ(list.size(), 1u);
    for (const char* key : {"nll_delta", "kl_mean", "kl_p99", "needle_nll_delta", "aggregate_nll_delta"})
        EXPECT_EQ(list[0][key].get<double>(), 0) << key;
    EXPECT_EQ(list[0]["top1_agree"], 1.0);
    EXPECT_EQ(list[0]["repeat_ppl"], list[0]["dense_repeat_ppl"]);
}

TEST_F(Eval, NeedlesLieWhereTheirKindsSay) {
    const json list = rows(model("eval_llama.gguf", "llama", 1024),
                           {"--positions", "16", "-c", "960", "--presets", "streaming", "--sparse-window", "64"});
    ASSERT_EQ(list.size(), 1u);
    EXPECT_EQ(list[0]["n_probe"], 960);  // no longer than the context
    std::vector<std::string> kinds;
    double sum = 0;
    for (const auto& [kind, delta] : list[0]["needle_nll_delta_by_kind"].items()) {
        kinds.push_back(kind);
        EXPECT_TRUE(std::isfinite(delta.get<double>())) << kind;
        EXPECT_NE(delta.get<double>(), 0) << kind;  // the question itself looks back beyond the window
        sum += delta.get<double>();
    }
    EXPECT_THAT(kinds, ::testing::UnorderedElementsAre("start", "single", "block_edge", "multi_key", "open_block"));
    EXPECT_NEAR(list[0]["needle_nll_delta"].get<double>(), sum / 5, 1e-9);
}

TEST_F(Eval, ItsStepsAreLinesWithoutATerminal) {
    const std::string path = model("eval_llama.gguf", "llama", 1024), words = text();
    const std::vector<std::string> call{
        "eval", "-m", path, "-f", words, "-c", "960", "--positions", "16", "--presets", "streaming,dense"};
    const Outcome piped = run_program(call);
    ASSERT_EQ(piped.status, 0) << piped.err;
    const std::string note = "winnow: note: ";
    EXPECT_THAT(
        own_lines(piped.err, note),
        ElementsAre(note + "dense: 16 positions after 944 tokens", note + "window of 256 tokens: the same positions",
                    note + "streaming: the same positions", note + "dense: the same positions",
                    StartsWith(note + "needles: "), StartsWith(note + "copy: "), StartsWith(note + "aggregation: "),
                    note + "repeated random tokens"));
    EXPECT_THAT(piped.err, Not(HasSubstr("\r")));
}

// A probe that a preset attends to as a whole would call it perfect.
TEST_F(Eval, ProbesAreLongerThanTheBudgets) {
    const std::string path = model("eval_long.gguf", "llama", 4096);
    const json list =
        rows(path, {"--positions", "8", "-c", "2200", "--presets", "recycled", "--sparse-budget", "1060"});
    ASSERT_EQ(list.size(), 1u);
    EXPECT_EQ(list[0]["n_probe"], 2120);
    EXPECT_GT(std::abs(list[0]["aggregate_nll_delta"].get<double>()), 1e-6);
}

// What cannot work is refused before a device is asked for: one that does not exist is never noticed.
TEST_F(Eval, RefusesBeforeAnythingIsAllocated) {
    const std::string path = model("eval_llama.gguf", "llama", 1024);
    const std::vector<std::string> base{"-c", "960", "--device", "no-such-device", "--presets"};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.begin(), base.begin(), base.end());
        return run(path, more);
    };
    expect_error(with({"exact"}), 3, "no-such-device");
    expect_error(with({"exact,nonsense"}), 2, "unknown sparse preset 'nonsense'");
    expect_error(with({"exact,rtpurbo"}), 2, "calibrat");
    expect_error(with({"dense,quest", "--sparse-budget", "60"}), 2, "below sink + window");
    expect_error(with({"streaming", "--sparse-window", "0"}), 2, "--sparse-window");
    const auto perplexity = [&](std::vector<std::string> more) {
        more.insert(more.begin(),
                    {"perplexity", "-m", path, "-f", text(), "-c", "256", "--device", "no-such-device", "--sparse"});
        return run_program(more);
    };
    expect_error(perplexity({"exact"}), 3, "no-such-device");
    expect_error(perplexity({"rtpurbo"}), 2, "calibrat");
    expect_error(perplexity({"quest", "--sparse-budget", "60"}), 2, "below sink + window");
    expect_error(perplexity({"streaming", "--sparse-window", "0"}), 2, "--sparse-window");
}

// Where an error sends the user to is what the help said before.
TEST_F(Eval, TheHelpSaysHowMuchTextIsNeeded) {
    const auto flag = [](const std::string& command, const std::string& name) {
        const std::string help = run_program({command, "--help"}).out;
        std::istringstream words(help.substr(std::min(help.find(name + " "), help.size())));
        std::string text;  // of this flag and what follows it, on one line
        for (std::string word; words >> word && text.size() < 200;) text += word + " ";
        return text;
    };
    const std::string path = model("eval_llama.gguf", "llama", 1024);
    expect_error(run(path, {"-c", "511"}), 2, "use -c 512 or more");
    expect_error(run(path, {"-c", "600", "--positions", "400"}), 2, "use -c 656 or more");
    EXPECT_THAT(flag("eval", "-c, --ctx-size"), HasSubstr("512 at least and 256 more than --positions"));
    expect_error(run(path, {"--positions", "7"}), 2, "from 8");
    EXPECT_THAT(flag("eval", "--positions"), HasSubstr("8 at least"));
    expect_error(run_program({"perplexity", "-m", path, "-p", "a", "-c", "3"}), 2, "a window needs at least 4");
    EXPECT_THAT(flag("perplexity", "-c, --ctx-size"), HasSubstr("4 at least"));
    expect_error(run_program({"calibrate", "-m", path, "-f", Files::shared().write("short.txt", "a")}), 2,
                 "needs 512 or more");
    EXPECT_THAT(flag("calibrate", "-f, --file"), HasSubstr("512 tokens at least"));
}

TEST_F(Eval, SaysWhichSettingsHaveNoEffect) {
    const auto perplexity = [](std::vector<std::string> more) {
        more.insert(more.begin(), {"perplexity", "-m", Files::shared().tiny(), "-f", text(), "-c", "64", "--windows",
                                   "1", "--sparse"});
        return run_program(more);
    };
    const auto warnings = [](const Outcome& outcome) { return own_lines(outcome.err, "winnow: warning: "); };
    const auto lines = warnings(perplexity({"streaming", "--sparse-mass", "0.9", "--sparse-budget", "500"}));
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_THAT(lines[0], HasSubstr("--sparse-mass has no effect on --sparse streaming"));
    EXPECT_THAT(lines[1], HasSubstr("--sparse-budget has no effect on --sparse streaming"));
    EXPECT_TRUE(warnings(perplexity({"exact", "--sparse-mass", "0.9", "--sparse-budget", "500"})).empty());
}

}  // namespace
}  // namespace winnow::test
