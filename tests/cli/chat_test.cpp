// SPDX-License-Identifier: Apache-2.0
// The chat, typed at through a pipe.
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using nlohmann::json;

class ChatProgram : public OnDevice {
protected:
    static std::vector<std::string> arguments(const std::vector<std::string>& more = {}) {
        std::vector<std::string> all = {"chat", "-m", Files::shared().tiny(), "-n", "6", "--temp", "0"};
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }
    static std::size_t count_of(const std::string& text, const std::string& part) {
        std::size_t n = 0;
        for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
        return n;
    }
};

TEST_F(ChatProgram, AnswersUntilTheEndOfInput) {
    const Outcome outcome = run_program(arguments(), "the end\nand \\\nanother\n\"\"\"one\ntwo\n\"\"\"\n");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "[ prompt "), 3u) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "/256 ]"), 3u) << outcome.err;
    EXPECT_FALSE(outcome.out.empty());
}

TEST_F(ChatProgram, SingleTurnAnswersOnce) {
    EXPECT_EQ(count_of(run_program(arguments({"-st"}), "one\ntwo\n").err, "[ prompt "), 1u);
    EXPECT_EQ(count_of(run_program(arguments({"-st", "-p", "one"}), "two\n").err, "[ prompt "), 1u);
    EXPECT_EQ(count_of(run_program(arguments({"-p", "one"}), "two\n").err, "[ prompt "), 2u);
    const Outcome once = run_program({"-m", Files::shared().tiny(), "-n", "6", "-p", "one"}, "two\n");
    EXPECT_EQ(once.status, 0) << once.err;
    EXPECT_EQ(count_of(once.err, "[ prompt "), 1u);
}

TEST_F(ChatProgram, ReusesWhatIsCached) {
    // Long enough that computing it again would show in the second number.
    const std::string question(60, 'x');
    const Outcome outcome = run_program(arguments(), question + "\nb\n/regen\n");
    std::vector<int> n_prompt;
    for (std::size_t at = 0; (at = outcome.err.find("[ prompt ", at)) != std::string::npos; at += 9) {
        n_prompt.push_back(std::atoi(outcome.err.c_str() + at + 9));
    }
    ASSERT_EQ(n_prompt.size(), 3u) << outcome.err;
    EXPECT_GT(n_prompt[0], 60);
    EXPECT_LT(n_prompt[1], 40);
    EXPECT_LT(n_prompt[2], 2);
}

TEST_F(ChatProgram, Commands) {
    const Files& files = Files::shared();
    files.write("read.txt", "the text of a file");
    const Outcome outcome = run_program(arguments(), "/help\n/read " + files.path("read.txt") +
                                                         "\none\n/undo\n/undo\n/system be brief\n/system\n" +
                                                         "/set temp=0.5\n/set temp=hot\n/set "
                                                         "nothing=1\n/set\n/stats\n/tokens\n/nonsense\n/clear\n/bye\n");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    for (const char* part : {"/regen", "goes with your next question", "last question taken back", "nothing to undo",
                             "system: be brief", "temp=0.5", "'hot'", "'nothing' is no setting", "weights",
                             "in the cache", "'/nonsense' is no command", "conversation cleared"}) {
        EXPECT_NE(outcome.err.find(part), std::string::npos) << part << "\n" << outcome.err;
    }
}

TEST_F(ChatProgram, SavesAndLoads) {
    const Files& files = Files::shared();
    const std::string path = files.path("chat.json");
    const Outcome saved = run_program(arguments({"-sys", "be brief"}), "one\ntwo\n/save " + path + "\n");
    EXPECT_EQ(saved.status, 0) << saved.err;
    const json root = json::parse(files.read("chat.json"), nullptr, false);
    ASSERT_TRUE(root.is_object());
    EXPECT_EQ(root["format"], "winnow-chat");
    EXPECT_EQ(root["model"], "tiny.gguf");
    ASSERT_EQ(root["messages"].size(), 5u);
    EXPECT_EQ(root["messages"][3]["content"], "two");

    const Outcome loaded =
        run_program(arguments(), "/load " + path + "\n/system\n/save " + files.path("again.json") + "\n");
    EXPECT_NE(loaded.err.find("4 messages loaded"), std::string::npos) << loaded.err;
    EXPECT_NE(loaded.err.find("system: be brief"), std::string::npos) << loaded.err;
    EXPECT_EQ(files.read("again.json"), files.read("chat.json"));
}

TEST_F(ChatProgram, DamagedChatsChangeNothing) {
    const Files& files = Files::shared();
    std::string script = "one\n";
    const auto saved = [](const std::string& messages) {
        return R"({"format":"winnow-chat","version":1,"model":"m","messages":[)" + messages + "]}";
    };
    const std::string too_long = R"({"role":"user","content":")" + std::string(2000, 'x') + "\"}";
    const std::string answer = R"({"role":"assistant","content":"a"})";
    const std::vector<std::string> damaged = {"",
                                              "{",
                                              "[]",
                                              R"({"format":"other"})",
                                              R"({"format":"winnow-chat","version":9})",
                                              saved(answer),
                                              saved(R"({"role":"user","content":3})"),
                                              saved(too_long + "," + answer)};
    for (std::size_t i = 0; i < damaged.size(); ++i) {
        script += "/load " + files.write("damaged" + std::to_string(i) + ".json", damaged[i]) + "\n";
    }
    script +=
        "/load " + files.path("missing.json") + "\n/save " + files.path("after.json") + "\n/save /nonexistent/x.json\n";
    const Outcome outcome = run_program(arguments(), script);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(own_lines(outcome.err, "winnow: error: ").size(), damaged.size() + 2) << outcome.err;
    const json root = json::parse(files.read("after.json"), nullptr, false);
    ASSERT_TRUE(root.is_object());
    ASSERT_EQ(root["messages"].size(), 2u);
    EXPECT_EQ(root["messages"][0]["content"], "one");
}

TEST_F(ChatProgram, AFullContextSaysSoAndTheChatGoesOn) {
    const Outcome outcome = run_program(arguments({"-c", "64"}), std::string(100, 'x') + "\n/clear\na\n");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const std::vector<std::string> errors = own_lines(outcome.err, "winnow: error: ");
    ASSERT_EQ(errors.size(), 1u) << outcome.err;
    EXPECT_NE(errors[0].find("the context holds 64"), std::string::npos) << errors[0];
    EXPECT_EQ(count_of(outcome.err, "[ prompt "), 1u) << outcome.err;
}

TEST_F(ChatProgram, FailuresHaveTheirStatus) {
    expect_error(run_program(arguments({"-c", "64", "-st"}), std::string(100, 'x') + "\n"), 2, "the context holds 64");
    Program::Options shell;
    shell.program = "/bin/sh";
    const std::string call =
        std::string(WINNOW_BIN) + "/winnow chat -m '" + Files::shared().tiny() + "' -n 6 --temp 0 >/dev/full";
    expect_error(run_program({"-c", call}, "the end\nand more\n", shell), 1, "writing to standard output failed");
}

TEST_F(ChatProgram, BlocksKeepTheirLinesAndAreNoCommands) {
    const Files& files = Files::shared();
    const std::string saved = files.path("blocks.json");
    const Outcome outcome = run_program(
        arguments(),
        "\"\"\"\n\n\nthe end\n\n\"\"\"\n\"\"\"/clear\nis a word\"\"\"\n\"\"\"one\n\ntwo\"\"\"\n/save " + saved + "\n");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const json root = json::parse(files.read("blocks.json"), nullptr, false);
    ASSERT_TRUE(root.is_object()) << outcome.err;
    std::vector<std::string> questions;
    for (const json& message : root["messages"])
        if (message["role"] == "user") questions.push_back(message["content"]);
    EXPECT_EQ(questions, (std::vector<std::string>{"\n\nthe end\n\n", "/clear\nis a word", "one\n\ntwo"}));
}

TEST_F(ChatProgram, StatisticsOfNoTokensAreThoseOfTheQuestion) {
    const Outcome outcome = run_program(arguments(), "the river\n/set n=0\nand the other one\nand more\n/stats\n");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "| gen 6 tok"), 1u) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "| gen 0 tok"), 2u) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "generated  6 tokens"), 1u) << outcome.err;
}

TEST_F(ChatProgram, CtrlCAtThePromptExitsWith130) {
    Program program(arguments({"--simple-io"}));
    ASSERT_TRUE(program.wait_for_output("> "));
    program.send(SIGINT);
    EXPECT_EQ(program.finish().status, 130);
}

TEST_F(ChatProgram, CtrlCStopsTheAnswerOnly) {
    // Without a limit the random model goes on until the context is full.
    Program program({"chat", "-m", Files::shared().tiny(), "--simple-io", "-s", "1"});
    ASSERT_TRUE(program.wait_for_output("> "));
    program.type("the end\n");
    ASSERT_TRUE(program.wait_for_more_output());
    program.send(SIGINT);
    program.type("/bye\n");
    const Outcome outcome = program.finish();
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "/256 ]"), 1u) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "256/256 ]"), 0u) << "the answer was over before Ctrl-C: " << outcome.err;
}

}  // namespace
}  // namespace winnow::test
