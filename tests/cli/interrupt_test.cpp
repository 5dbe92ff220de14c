// SPDX-License-Identifier: Apache-2.0
// Ctrl-C in the middle of work: 130, soon, and nothing half-written.
#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;

class Interrupt : public OnDevice {
protected:
    // Sends SIGINT and waits for the end.
    static Outcome interrupt(Program& program) {
        program.send(SIGINT);
        const Outcome outcome = program.finish();
        EXPECT_EQ(outcome.status, 130) << outcome.out << outcome.err;
        EXPECT_TRUE(own_lines(outcome.err, "winnow: error").empty()) << outcome.err;
        return outcome;
    }
    static std::string text(std::size_t n) {
        std::string words;
        while (words.size() < n) words += "the " + std::to_string(words.size() * 7919 % 1000) + " rivers ";
        return words;
    }
};

TEST_F(Interrupt, Generate) {
    Program program({"generate", "-m", Files::shared().slow(), "-p", "the", "-s", "1", "--no-display-prompt"});
    ASSERT_TRUE(program.wait_for_more_output());
    const Outcome outcome = interrupt(program);
    EXPECT_TRUE(outcome.out.ends_with("\n")) << "the line of the answer is ended";
}

TEST_F(Interrupt, WhileThePromptIsRead) {
    const Files& files = Files::shared();
    const std::size_t n_files = (Files::shared().slow(), files.count());
    Program::Options options;
    options.terminal = true;  // its progress bar says when
    Program program({"generate", "-m", Files::shared().slow(), "-p", text(15000), "-ub", "8", "-no-cnv", "-n", "4",
                     "--no-display-prompt"},
                    options);
    ASSERT_TRUE(program.wait_for_output("reading the prompt ["));
    interrupt(program);

    Program with_logits({"generate", "-m", Files::shared().slow(), "-p", text(15000), "-ub", "8", "-no-cnv", "-n", "0",
                         "--logits-out", files.path("stopped.npy")},
                        options);
    ASSERT_TRUE(with_logits.wait_for_output("reading the prompt ["));
    interrupt(with_logits);
    EXPECT_EQ(files.count(), n_files);
}

TEST_F(Interrupt, Perplexity) {
    const Files& files = Files::shared();
    const std::size_t n_files = (Files::shared().slow(), files.count());
    Program program({"perplexity", "-m", Files::shared().slow(), "-p", text(60000), "-c", "64", "--logits-out",
                     files.path("stopped.npy")});
    ASSERT_TRUE(program.wait_for_output("[1]"));
    EXPECT_EQ(interrupt(program).out.find("Final estimate"), std::string::npos);
    EXPECT_EQ(files.count(), n_files);
}

TEST_F(Interrupt, BeingEndedLeavesNoFileEither) {
    const Files& files = Files::shared();
    const std::size_t n_files = (Files::shared().slow(), files.count());
    for (const int number : {SIGTERM, SIGHUP}) {
        Program program({"perplexity", "-m", Files::shared().slow(), "-p", text(60000), "-c", "64", "--logits-out",
                         files.path("ended.npy")});
        ASSERT_TRUE(program.wait_for_output("[1]"));
        EXPECT_EQ(files.count(), n_files + 1);
        program.send(number);
        EXPECT_EQ(program.finish().status, 128 + number);
        EXPECT_EQ(files.count(), n_files);
    }
}

// Reading goes on after a signal, so that nobody would notice the first Ctrl-C.
TEST(InterruptInput, WhileSomebodyIsAskedForTheText) {
    Program::Options options;
    options.terminal = true;
    Program program({"tokenize", "-m", Files::shared().vocabulary(), "-f", "-"}, options);
    std::this_thread::sleep_for(std::chrono::seconds(1));
    program.send(SIGINT);
    bool ended = false;
    for (int i = 0; i < 100 && !ended; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        ended = program.has_ended();
    }
    EXPECT_TRUE(ended);
    program.send(SIGINT);
    EXPECT_EQ(program.finish().status, 130);
}

TEST_F(Interrupt, Bench) {
    for (const char* test : {"-p", "-n"}) {
        Program program({"bench", "-m", Files::shared().slow(), "-p", "0", "-n", "0", test, "2048", "-r", "1000"});
        ASSERT_TRUE(program.wait_for_output("| model"));
        const Outcome outcome = interrupt(program);
        EXPECT_EQ(outcome.out.find("2048 |"), std::string::npos) << "no row of a test that was not finished";
    }
}

TEST_F(Interrupt, WhileTheModelIsLoadedOrWarmedUp) {
    Program::Options options;
    options.terminal = true;
    Program program({"generate", "-m", Files::shared().slow(), "-p", "the", "-n", "4000"}, options);
    ASSERT_TRUE(program.wait_for_output("compiling shaders"));
    interrupt(program);
}

}  // namespace
}  // namespace winnow::test
