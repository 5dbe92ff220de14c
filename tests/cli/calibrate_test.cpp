// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A folder with a model of its own, and a cache of its own: a sidecar changes what other tests see.
class Calibrate : public OnDevice {
protected:
    void SetUp() override {
        OnDevice::SetUp();
        options_.environment["XDG_CACHE_HOME"] = path("cache");
        model_ = folder_.copy(Files::shared().tiny(), "model.gguf");
        std::string text;
        for (int i = 0; i < 300; ++i) text += "the " + std::to_string(i * 7919 % 1000) + " rivers ";
        text_ = write("text.txt", text);
    }

    std::string path(const std::string& name) const { return folder_.path(name); }
    std::string write(const std::string& name, const std::string& bytes) const { return folder_.write(name, bytes); }
    // Of tokens enough for the index to choose from.
    std::string prompt() const {
        std::string words;
        for (int i = 0; i < 24; ++i) words += "the " + std::to_string(i * 37) + " ";
        return write("prompt.txt", words);
    }
    Outcome run(const std::vector<std::string>& arguments) const { return run_program(arguments, "", options_); }
    Outcome generate(const std::string& preset) const {
        return run({"generate", "-m", model_, "-f", text_, "-c", "256", "-n", "4", "--temp", "0", "--sparse", preset,
                    "--sparse-min-ctx", "0"});
    }

    TemporaryFolder folder_;
    std::string model_, text_;
    Program::Options options_;
};

TEST_F(Calibrate, WritesASidecarThatThePresetsThenUse) {
    const std::string text = text_;
    text_ = prompt();
    expect_error(generate("rtpurbo"), 2, "winnow calibrate");

    const Outcome made = run({"calibrate", "-m", model_, "-f", text, "--plot", path("plot.svg")});
    ASSERT_EQ(made.status, 0) << made.err;
    EXPECT_THAT(made.out, HasSubstr("retrieval heads:"));
    EXPECT_THAT(made.out, HasSubstr("| calibrated | 8 |"));
    EXPECT_THAT(made.out, HasSubstr("model.winnow.gguf"));
    EXPECT_TRUE(folder_.has("model.winnow.gguf"));
    const std::string plot = folder_.read("plot.svg");
    EXPECT_THAT(plot, HasSubstr("</svg>"));
    EXPECT_EQ(plot.find("nan\" "), std::string::npos);
    for (const char* preset : {"rtpurbo", "hisa", "fasa", "duo", "kascade", "auto"}) {
        const Outcome answer = generate(preset);
        EXPECT_EQ(answer.status, 0) << preset << answer.err;
    }
}

TEST_F(Calibrate, ReportsWhatItMeasured) {
    TinyOptions options;
    options.n_ctx = 2048;
    const std::vector<std::byte> bytes = make_tiny_gguf(options);
    const std::string long_model = write("long.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    const Outcome made = run({"calibrate", "-m", long_model, "-f", text_, "--plot", path("long.svg"), "-lv", "3"});
    ASSERT_EQ(made.status, 0) << made.err;
    EXPECT_THAT(made.out, ContainsRegex("retrieval heads: [0-4] of 4 kv heads"));
    EXPECT_THAT(
        made.out,
        ContainsRegex("safety check: perplexity of repeated random tokens [0-9.]+ with these roles, [0-9.]+ dense"));
    EXPECT_THAT(made.out, HasSubstr("Settings that hold 0.9 of the attention"));
    for (const std::string preset : {"rtpurbo", "hisa", "kascade"})
        EXPECT_THAT(made.out,
                    ContainsRegex("\\| " + preset + " \\| .* \\| [01]\\.[0-9]+ \\| [0-9.]+ \\| [0-9.x-]+ \\|"))
            << preset;
    // Both layers of this model are dense in quest: nothing is audited, so nothing holds anything.
    EXPECT_EQ(made.out.find("| quest |"), std::string::npos);
    EXPECT_THAT(
        made.out,
        ContainsRegex("\\| calibrated \\| 8 \\| [01]\\.[0-9]+ / [01]\\.[0-9]+ \\| [01]\\.[0-9]+ / [01]\\.[0-9]+ \\|"));
    EXPECT_THAT(made.out, HasSubstr("| text of 1024, rotated to 2048 | 8 |"));
    EXPECT_THAT(made.out, HasSubstr("| this text, as its 2048 show it | 8 |"));
    EXPECT_THAT(made.out, ContainsRegex("hisa: its filter by codes leaves an overlap of [01]\\.[0-9]+ with .*"
                                        "for 0\\.[23][0-9]+ of the index bytes"));
    // Random weights: one line, and no roles to rely on.
    EXPECT_THAT(made.out, HasSubstr("no structure: no head"));
    EXPECT_THAT(made.out, HasSubstr("auto: exact\n"));
    const std::string plot = folder_.read("long.svg");
    for (const char* title : {"induction by layer", "attention to the needle", "attention beyond sinks and window",
                              "recall of the best 64 tokens by the index<", "one layer's best tokens", "are too"})
        EXPECT_THAT(plot, HasSubstr(title));
    EXPECT_EQ(plot.find("not measured"), std::string::npos);
    // Presets that drop what heads saw say that nobody vouches for it.
    model_ = long_model;
    text_ = prompt();
    EXPECT_THAT(generate("rtpurbo").err, HasSubstr("rtpurbo drops what most heads saw"));
    EXPECT_EQ(generate("hisa").err.find("drops"), std::string::npos);

    const Outcome brief =
        run({"calibrate", "-m", path("model.gguf"), "-f",
             write("brief.txt", folder_.read("prompt.txt") + folder_.read("prompt.txt")), "--plot", path("brief.svg")});
    ASSERT_EQ(brief.status, 0) << brief.err;
    EXPECT_THAT(brief.out, HasSubstr("nothing was held out"));
    EXPECT_THAT(folder_.read("brief.svg"), HasSubstr("recall of the best 64 tokens by the index: not measured"));
}

// It takes minutes of a real model, which nobody should spend before a silent pipe; a terminal has bars.
TEST_F(Calibrate, ItsStepsAreLinesWithoutATerminal) {
    const std::vector<std::string> call{"calibrate", "-m", model_, "-f", text_};
    const Outcome piped = run(call);
    ASSERT_EQ(piped.status, 0) << piped.err;
    const std::string note = "winnow: note: calibrating: ";
    std::vector<std::string> steps;
    for (const std::string& line : own_lines(piped.err, note)) steps.push_back(line.substr(note.size()));
    ASSERT_GE(steps.size(), 5u) << piped.err;
    EXPECT_THAT(std::vector(steps.begin(), steps.begin() + 5),
                ElementsAre("random tokens", "text", "fit of the index", "held-out text", "attention"));
    EXPECT_EQ(steps.back(), "safety check 3/3");
    EXPECT_EQ(std::adjacent_find(steps.begin(), steps.end()), steps.end());
    EXPECT_THAT(piped.err, Not(HasSubstr("\r")));
    EXPECT_THAT(piped.out, Not(HasSubstr("calibrating")));

    std::vector<std::string> quiet = call;
    quiet.insert(quiet.end(), {"-lv", "1"});
    EXPECT_TRUE(own_lines(run(quiet).err).empty());
    options_.terminal = true;
    const Outcome shown = run(call);
    EXPECT_EQ(shown.status, 0) << shown.out;
    EXPECT_THAT(shown.out, Not(HasSubstr("note: calibrating")));
}

TEST_F(Calibrate, ABadSidecarIsOneLineAndDenseStillWorks) {
    text_ = prompt();
    const std::string sidecar = path("model.winnow.gguf");
    const std::string text = write("long.txt", std::string(3000, 'x') + " y z");
    ASSERT_EQ(run({"calibrate", "-m", model_, "-f", text, "--index-dim", "16"}).status, 0);
    const std::string good = folder_.read("model.winnow.gguf");

    write("model.winnow.gguf", good.substr(0, good.size() / 2));  // truncated
    expect_error(generate("rtpurbo"), 4, "model.winnow.gguf");
    EXPECT_EQ(generate("off").status, 0);
    write("model.winnow.gguf", "no GGUF at all");
    expect_error(generate("auto"), 4, "model.winnow.gguf");
    EXPECT_EQ(generate("exact").status, 0);
    // Of another model: the same weights under another RoPE base would be enough.
    TinyOptions other;
    other.seed = 99;
    const std::vector<std::byte> bytes = make_tiny_gguf(other);
    write("other.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    write("other.winnow.gguf", good);
    model_ = path("other.gguf");
    expect_error(generate("hisa"), 4, "another model");
    EXPECT_EQ(generate("off").status, 0);
}

TEST_F(Calibrate, AutoCalibratesOnceAndKeepsIt) {
    text_ = prompt();
    const Outcome first = generate("auto");
    EXPECT_EQ(first.status, 0) << first.err;
    EXPECT_THAT(first.err, HasSubstr("no calibration of this model yet"));
    EXPECT_THAT(first.err, Not(HasSubstr("calibrating:")));  // the answer is not about its steps
    EXPECT_TRUE(folder_.has("cache/winnow"));
    EXPECT_FALSE(folder_.has("model.winnow.gguf"));
    const Outcome second = generate("auto");
    EXPECT_EQ(second.status, 0) << second.err;
    EXPECT_EQ(second.err.find("no calibration"), std::string::npos) << second.err;
    EXPECT_EQ(first.out, second.out);
    // Presets that were named say that it is a quick one, which checks no roles; quest takes nothing of it.
    EXPECT_THAT(own_lines(generate("duo").err), ElementsAre(AllOf(HasSubstr("quick"), HasSubstr("never checked"))));
    EXPECT_THAT(own_lines(generate("hisa").err),
                ElementsAre(AllOf(HasSubstr("hisa goes by the quick calibration"), HasSubstr("winnow calibrate"))));
    EXPECT_TRUE(own_lines(generate("quest").err).empty());

    options_.environment["WINNOW_NO_CACHE"] = "1";
    const Outcome uncached = generate("auto");
    EXPECT_EQ(uncached.status, 0) << uncached.err;
    EXPECT_THAT(uncached.err, HasSubstr("exact"));
}

TEST_F(Calibrate, WhatCouldNotBeKeptIsNotLearnt) {
    text_ = prompt();
    options_.environment["XDG_CACHE_HOME"] = write("no-folder", "");
    const Outcome outcome = generate("auto");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("could not be kept in '" + path("no-folder/winnow") + "'"));
    EXPECT_THAT(outcome.err, Not(HasSubstr("making a quick one")));
}

TEST_F(Calibrate, InfoTellsOfTheCalibrationAndMakesNone) {
    text_ = prompt();
    const std::vector<std::string> call{"info", "-m", model_, "--sparse", "auto", "--json"};
    const Outcome outcome = run(call);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_THAT(own_lines(outcome.err), ElementsAre(AllOf(HasSubstr("winnow: note: no calibration of this model yet"),
                                                          HasSubstr(".winnow.gguf"))));
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path("")))
        EXPECT_FALSE(entry.path().filename().string().ends_with(".winnow.gguf")) << entry.path();
    ASSERT_EQ(generate("auto").status, 0);
    EXPECT_TRUE(own_lines(run(call).err).empty());
}

TEST_F(Calibrate, WindowedModelsAndOddRequests) {
    const std::string gemma = folder_.copy(Files::shared().tiny_gemma(), "gemma.gguf");
    const Outcome made =
        run({"calibrate", "-m", gemma, "-f", text_, "-o", path("own.gguf"), "--retrieval-share", "0.5"});
    EXPECT_EQ(made.status, 0) << made.err;
    EXPECT_TRUE(folder_.has("own.gguf"));
    write("short.txt", "too short");
    expect_error(run({"calibrate", "-m", model_, "-f", path("short.txt")}), 2, "needs 128 or more");
    expect_error(run({"calibrate", "-m", model_, "--index-dim", "12"}), 2, "multiple of 8");
    expect_error(run({"calibrate", "-m", model_, "--index-dim", "48"}), 2, "multiple of 8");
    expect_error(run({"calibrate", "-m", model_, "-c", "64"}), 2, "too short");
    expect_error(run({"calibrate", "-m", model_, "--retrieval-share", "2"}), 2, "retrieval-share");
    expect_error(run({"calibrate", "-m", model_, "-f", path("missing.txt")}), 1, "missing.txt");
    EXPECT_FALSE(folder_.has("model.winnow.gguf"));
}

}  // namespace
}  // namespace winnow::test
