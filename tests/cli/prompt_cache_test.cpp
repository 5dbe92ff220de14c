// SPDX-License-Identifier: Apache-2.0
// --prompt-cache: what it saves, and that no trouble with the file is more than a warning.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class PromptCacheProgram : public OnDevice {
protected:
    std::vector<std::string> generate(const std::string& prompt, const std::string& file,
                                      const std::vector<std::string>& more = {}) const {
        std::vector<std::string> all = {"generate", "-m",     model_, "-p",     prompt,       "-n",
                                        "8",        "--temp", "0",    "--json", "--no-warmup"};
        if (!file.empty()) all.insert(all.end(), {"--prompt-cache", file});
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }
    // The answer, after a run with exit status 0 and so many lines of its own on standard error.
    json run(const std::vector<std::string>& arguments, std::size_t n_lines = 0, const std::string& warning = "") {
        const Outcome outcome = run_program(arguments);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        const std::vector<std::string> lines = own_lines(outcome.err);
        EXPECT_EQ(lines.size(), n_lines) << outcome.err;
        if (n_lines > 0 && !lines.empty()) {
            EXPECT_THAT(lines[0], HasSubstr("winnow: warning: "));
            EXPECT_THAT(lines[0], HasSubstr(warning));
        }
        return json::parse(outcome.out, nullptr, false);
    }
    std::string model_ = Files::shared().tiny();
    TemporaryFolder folder_;
    const std::string question_ = std::string("the other one and another line in the end") + std::string(60, 'x');
};

TEST_F(PromptCacheProgram, ASecondRunReadsWhatIsNew) {
    const std::string file = folder_.path("cache");
    const json plain = run(generate(question_, ""));
    const json first = run(generate(question_, file));
    EXPECT_EQ(first["tokens"], plain["tokens"]);
    EXPECT_EQ(first["timings"]["cache_n"], 0);
    EXPECT_EQ(first["timings"]["prompt_n"], plain["timings"]["prompt_n"]);
    const std::string saved = folder_.read("cache");
    const json again = run(generate(question_, file));
    EXPECT_EQ(again["tokens"], plain["tokens"]);
    EXPECT_EQ(again["timings"]["cache_n"], again["prompt_tokens"].get<int>() - 1);
    EXPECT_EQ(again["timings"]["prompt_n"], 1);  // the last one, for its logits
    EXPECT_EQ(folder_.read("cache"), saved);
    const json longer = run(generate(question_ + " and more", file));
    EXPECT_GT(longer["timings"]["cache_n"], 60);
    EXPECT_EQ(longer["tokens"], run(generate(question_ + " and more", ""))["tokens"]);
    EXPECT_GT(folder_.read("cache").size(), 0u);
    EXPECT_EQ(folder_.count(), 1u);
}

TEST_F(PromptCacheProgram, WhatCameFromTheFileIsSaidAndHasNoSpeed) {
    const auto stats = [&](const std::string& file, const char* n_predict) {
        const Outcome outcome = run_program(generate("the river", file, {"--show-timings", "-n", n_predict}));
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome.err;
    };
    const std::string file = folder_.path("cache");
    EXPECT_THAT(stats(file, "8"),
                ::testing::ContainsRegex("\\[ prompt 6 tok [0-9.]+ t/s \\| gen 8 tok [0-9.]+ t/s \\| ctx"));
    EXPECT_THAT(stats(file, "8"),
                ::testing::ContainsRegex("\\[ prompt 1 tok, 5 from the cache \\| gen 8 tok [0-9.]+ t/s"));
    EXPECT_THAT(stats("", "0"), ::testing::ContainsRegex("\\[ prompt 6 tok [0-9.]+ t/s \\| gen 0 tok \\| ctx"));
}

// Quest leaves the first two layers dense: a model with more of them. What it keeps follows from summaries that the
// file has not.
TEST_F(PromptCacheProgram, ASelectingPresetGoesOnAsWithoutTheFile) {
    TinyOptions tiny;
    tiny.n_layers = 4;
    tiny.n_ctx = 512;
    const std::vector<std::byte> bytes = make_tiny_gguf(tiny);
    TemporaryFolder models;
    model_ = models.write("deep.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    std::string prompt;
    for (int i = 0; i < 60; ++i) prompt += std::to_string(i * 7919 % 1000) + " ";
    const std::string file = folder_.path("cache");
    const auto quest = [&](const std::string& cache) {
        const Outcome outcome = run_program(generate(prompt, cache,
                                                     {"--sparse", "quest", "--sparse-min-ctx", "0", "--sparse-window",
                                                      "32", "--sparse-budget", "64", "--sparse-report"}));
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        EXPECT_TRUE(own_lines(outcome.err, "winnow: ").empty()) << outcome.err;
        EXPECT_THAT(outcome.err, HasSubstr("select"));
        return std::pair(json::parse(outcome.out, nullptr, false), outcome.err.substr(outcome.err.find("quest: ")));
    };
    const auto [plain, plain_report] = quest("");
    EXPECT_EQ(plain_report.find(" 100.00 % of"), plain_report.npos) << plain_report;
    EXPECT_EQ(quest(file).first["tokens"], plain["tokens"]);
    const auto [again, again_report] = quest(file);
    EXPECT_EQ(again["tokens"], plain["tokens"]);
    EXPECT_EQ(again_report, plain_report);
    EXPECT_EQ(again["timings"]["prompt_n"], 1);  // the last one, for its logits
    // The prompt was read the same way whatever selects afterwards.
    const json dense = run(generate(prompt, file));
    EXPECT_EQ(dense["timings"]["prompt_n"], 1);  // the last one, for its logits
    EXPECT_EQ(dense["tokens"], run(generate(prompt, ""))["tokens"]);
}

TEST_F(PromptCacheProgram, TroubleIsOneWarning) {
    const std::string file = folder_.path("cache");
    const json plain = run(generate(question_, ""));
    run(generate(question_, file));
    const std::string saved = folder_.read("cache");
    // Damaged, and of another cache type: the prompt is read, and the file is made anew.
    folder_.write("cache", saved.substr(0, saved.size() / 2));
    EXPECT_EQ(run(generate(question_, file), 1, "damaged")["tokens"], plain["tokens"]);
    EXPECT_EQ(folder_.read("cache"), saved);
    std::string flipped = saved;
    flipped[saved.size() - 100] = static_cast<char>(~flipped[saved.size() - 100]);
    folder_.write("cache", flipped);
    EXPECT_EQ(run(generate(question_, file), 1, "checksum")["tokens"], plain["tokens"]);
    EXPECT_EQ(folder_.read("cache"), saved);
    run(generate(question_, file, {"-ctk", "q8_0", "-ctv", "q8_0"}), 1, "another cache type");
    EXPECT_NE(folder_.read("cache"), saved);
    // Somebody else's file stays.
    folder_.write("letter", "dear reader");
    EXPECT_EQ(run(generate(question_, folder_.path("letter")), 1, "no prompt cache")["tokens"], plain["tokens"]);
    EXPECT_EQ(folder_.read("letter"), "dear reader");
    EXPECT_EQ(folder_.count(), 2u);
}

// Before the model is loaded: the one of the chat has no weights.
TEST_F(PromptCacheProgram, AFileThatCannotBeMadeIsRefusedAtTheStart) {
    expect_error(run_program(generate(question_, folder_.path("no/folder"))), 1, "--prompt-cache: cannot write");
    expect_error(run_program(generate(question_, folder_.path(""))), 1, "--prompt-cache: cannot write");
    const std::string lost_file = folder_.path("no/folder");
    expect_error(run_program({"chat", "-m", Files::shared().vocabulary(), "--prompt-cache", lost_file}), 1,
                 "--prompt-cache: cannot write");
    EXPECT_EQ(folder_.count(), 0u);
}

TEST_F(PromptCacheProgram, AFileThatCanOnlyBeReadServes) {
    if (geteuid() == 0) GTEST_SKIP() << "root may write anywhere";
    const std::string file = folder_.path("cache");
    const json first = run(generate(question_, file));
    std::filesystem::permissions(file, std::filesystem::perms::owner_read);
    const json again = run(generate(question_, file), 1, "it is only read");
    EXPECT_EQ(again["tokens"], first["tokens"]);
    EXPECT_EQ(again["timings"]["prompt_n"], 1);
}

TEST_F(PromptCacheProgram, LogitsOfThePromptNeedAllOfItRead) {
    const std::string logits = folder_.path("x.npy");
    const Outcome outcome = run_program(generate(question_, folder_.path("cache"), {"--logits-out", logits}));
    expect_error(outcome, 2, "--logits-out needs the whole prompt read: leave out --prompt-cache");
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(folder_.count(), 0u);
}

// Chunks of 8 make rings of two blocks.
TEST_F(PromptCacheProgram, AChatThatOutgrowsItsRingsWarnsOnce) {
    const std::string file = folder_.path("cache");
    const auto warnings = [&](const std::string& input) {
        const Outcome outcome = run_program({"chat", "-m", Files::shared().tiny_gemma(), "-n", "4", "--temp", "0",
                                             "-ub", "8", "--prompt-cache", file, "--no-warmup"},
                                            input);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return own_lines(outcome.err);
    };
    EXPECT_TRUE(warnings("one\ntwo\n").empty());
    EXPECT_TRUE(warnings("one\ntwo\n").empty());
    const std::string x(70, 'x'), y(70, 'y');
    const std::vector<std::string> lines = warnings("one\n" + x + "\n" + y + "\n");
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_THAT(lines[0], HasSubstr("winnow: warning: --prompt-cache: the text has outgrown the sliding windows"));
}

TEST_F(PromptCacheProgram, AFullDiskIsOneWarning) {
    // A limit on the size of files, as a disk that is full: writing fails after 4 KiB.
    std::string line = "trap '' XFSZ; ulimit -f 4; exec " WINNOW_BIN "/winnow";
    for (const std::string& word : generate(question_, folder_.path("cache"))) line += " '" + word + "'";
    Program::Options options;
    options.program = "/bin/bash";
    const Outcome outcome = run_program({"-c", line}, "", options);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(own_lines(outcome.err, "winnow: warning: --prompt-cache").size(), 1u) << outcome.err;
    EXPECT_EQ(folder_.count(), 0u);
    EXPECT_EQ(json::parse(outcome.out, nullptr, false)["tokens"], run(generate(question_, ""))["tokens"]);
}

TEST_F(PromptCacheProgram, AChatIsSavedWhenItEnds) {
    const std::string file = folder_.path("cache");
    const auto chat = [&](const std::string& input) {
        return run_program(
            {"chat", "-m", Files::shared().tiny(), "-n", "6", "--temp", "0", "--prompt-cache", file, "--no-warmup"},
            input);
    };
    const auto n_read = [](const Outcome& outcome) {
        const std::size_t at = outcome.err.find("[ prompt ");
        return at == outcome.err.npos ? -1 : std::atoi(outcome.err.c_str() + at + 9);
    };
    const Outcome nothing = chat("");
    EXPECT_EQ(nothing.status, 0) << nothing.err;
    EXPECT_EQ(folder_.count(), 0u);
    const Outcome first = chat(question_ + "\nand\n");
    EXPECT_EQ(first.status, 0) << first.err;
    EXPECT_GT(n_read(first), 60);
    EXPECT_EQ(folder_.count(), 1u);
    const std::string saved = folder_.read("cache");
    const Outcome again = chat(question_ + "\nand\n");
    EXPECT_EQ(again.out, first.out);
    EXPECT_LT(n_read(again), 2) << again.err;
    EXPECT_TRUE(own_lines(again.err).empty()) << again.err;
    EXPECT_EQ(folder_.read("cache").size(), saved.size());
}

}  // namespace
}  // namespace winnow::test
