// SPDX-License-Identifier: Apache-2.0
// The program at a terminal: editing, paste, history, colours and progress, and none of these in a pipe.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kEscape = "\x1b";

class Terminal : public OnDevice {
protected:
    Program::Options at_terminal() const {
        Program::Options options;
        options.terminal = true;
        // The editor reads ~/.editrc; shaders stay where they are, or each run would compile them.
        const auto variable = [](const char* name) { return std::string(std::getenv(name) ? std::getenv(name) : ""); };
        const std::string cache = variable("XDG_CACHE_HOME");
        options.environment = {{"TERM", "xterm"},
                               {"NO_COLOR", ""},
                               {"XDG_STATE_HOME", state_.path("state")},
                               {"HOME", state_.path("")},
                               {"XDG_CACHE_HOME", cache.empty() ? variable("HOME") + "/.cache" : cache}};
        return options;
    }
    // A chat that is typed at, one message after the other; what was asked, as /save tells it.
    std::vector<std::string> asked(const std::vector<std::string>& typed, std::vector<std::string> flags = {}) {
        flags.insert(flags.begin(), {"chat", "-m", Files::shared().tiny(), "-n", "2", "--temp", "0"});
        Program program(flags, at_terminal());
        const std::string saved = state_.path("asked.json");
        std::vector<std::string> all = typed;
        all.push_back("/save " + saved + "\r");
        all.push_back("/bye\r");
        for (const std::string& keys : all) {
            // The prompt stands there, and with it the keys mean what they should.
            EXPECT_TRUE(program.wait_for_output("> "));
            program.take_output();
            program.type(keys);
        }
        EXPECT_EQ(program.finish().status, 0);
        const json root = json::parse(state_.read("asked.json"), nullptr, false);
        std::vector<std::string> questions;
        if (!root.is_object()) return questions;
        for (const json& message : root["messages"])
            if (message["role"] == "user") questions.push_back(message["content"]);
        return questions;
    }

    TemporaryFolder state_;
};

TEST_F(Terminal, APasteIsOneQuestion) {
    EXPECT_THAT(asked({"see: \x1b[200~one\rtwo\n\x1b[201~ and so on\r", "\x1b[200~/no command\nb\x1b[201~\x1b[H \r"}),
                ElementsAre("see: one\ntwo and so on", " /no command\nb"));
}

TEST_F(Terminal, LinesAreEditedAsShellsDo) {
    EXPECT_THAT(asked({"hlo\x1b[D\x1b[Del\r", "two words\x17\x17one\r",
                       "b\x01"
                       "a\x05"
                       "c\r",
                       "\xc3\xa4x\x7f\xf0\x9f\x8c\xb2\r"}),
                ElementsAre("hello", "one", "abc", "\xc3\xa4\xf0\x9f\x8c\xb2"));
    EXPECT_THAT(asked({"one \\\rtwo\r", "\"\"\"a\rb\"\"\"\r"}), ElementsAre("one \ntwo", "a\nb"));
}

TEST_F(Terminal, TheHistoryOutlivesTheProgram) {
    EXPECT_THAT(asked({"first\r", "\x1b[200~a\nb\x1b[201~\r"}), ElementsAre("first", "a\nb"));
    // Each entry once, after the mark of the format.
    const std::string history = state_.read("state/winnow/history");
    EXPECT_EQ(std::count(history.begin(), history.end(), '\n'), 1 + 4) << history;
    EXPECT_THAT(history, HasSubstr("first\n"));
    const auto status = std::filesystem::status(state_.path("state/winnow/history"));
    EXPECT_EQ(status.permissions() & std::filesystem::perms::others_read, std::filesystem::perms::none);
    // Up past /bye, /save and the paste.
    const std::string up = "\x1b[A";
    EXPECT_THAT(asked({up + up + up + up + "\r", up + up + up + up + "!\r"}), ElementsAre("first", "a\nb!"));
    // Not where another program types.
    EXPECT_THAT(asked({"unseen\r"}, {"--simple-io"}), ElementsAre("unseen"));
    EXPECT_THAT(state_.read("state/winnow/history"), Not(HasSubstr("unseen")));
}

TEST_F(Terminal, CtrlCAndCtrlDLeave) {
    for (const auto& [key, status] : {std::pair("\x03", 130), std::pair("\x04", 0)}) {
        Program program({"chat", "-m", Files::shared().tiny()}, at_terminal());
        ASSERT_TRUE(program.wait_for_output("> "));
        program.type(key);
        const Outcome outcome = program.finish();
        EXPECT_EQ(outcome.status, status);
        EXPECT_THAT(outcome.out, HasSubstr("\x1b[?2004l"));  // the terminal is left as it was
    }
}

TEST_F(Terminal, ProgressAndColourOnlyAtATerminal) {
    std::string text;
    while (text.size() < 3000) text += "the other one and another line ";
    const std::vector<std::string> call = {"generate", "-m", Files::shared().slow(), "-p", text, "-n", "2",
                                           "-ub",      "8",  "--show-timings"};
    const std::string shown = run_program(call, "", at_terminal()).out;
    EXPECT_THAT(shown, HasSubstr("\r\x1b[Kcompiling shaders ..."));
    // A fast device has read the prompt before a bar is due.
    if (on_software_driver()) {
        const std::string bar = "\r\x1b[Kreading the prompt [";
        const std::size_t first = shown.find(bar);
        ASSERT_NE(first, shown.npos) << shown;
        // What is left is not foretold from the first chunk; after a second it is.
        EXPECT_THAT(shown.substr(first, shown.find('\r', first + 1) - first), Not(HasSubstr("ETA")));
        EXPECT_THAT(shown.substr(shown.rfind(bar)), HasSubstr(" tokens  ETA "));
        EXPECT_GT(shown.find(text.substr(0, 40)), shown.rfind(bar));  // a bar would wipe out what stands on its line
    }
    EXPECT_THAT(shown, HasSubstr("\x1b[2m[ prompt "));
    Program::Options plain = at_terminal();
    plain.environment["NO_COLOR"] = "1";
    const std::string uncolored = run_program(call, "", plain).out;
    if (on_software_driver()) {
        EXPECT_THAT(uncolored, HasSubstr("reading the prompt [#"));
    }
    EXPECT_THAT(uncolored, Not(HasSubstr("\x1b[2m")));
    const Outcome piped = run_program(call);
    EXPECT_EQ(piped.status, 0) << piped.err;
    for (const std::string& stream : {piped.out, piped.err}) {
        EXPECT_THAT(stream, Not(HasSubstr(kEscape)));
        EXPECT_THAT(stream, Not(HasSubstr("reading the prompt")));
    }
    EXPECT_THAT(piped.err, HasSubstr("[ prompt "));
}

// A first start may take long, and somebody who reads it from a pipe wants to know why; later ones say nothing.
TEST_F(Terminal, WithoutATerminalAFirstStartSaysThatShadersAreCompiled) {
    Program::Options options;
    options.environment["XDG_CACHE_HOME"] = state_.path("cache");
    const auto run = [&options](const std::vector<std::string>& flags) {
        std::vector<std::string> call = {"generate", "-m", Files::shared().tiny(), "-p", "a", "-n", "1"};
        call.insert(call.end(), flags.begin(), flags.end());
        const Outcome outcome = run_program(call, "", options);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome.err;
    };
    const std::string note = "winnow: note: compiling shaders, for which a first start takes longer\n";
    EXPECT_EQ(run({}), note);
    EXPECT_EQ(run({}), "");
    options.environment["XDG_CACHE_HOME"] = state_.path("other");
    EXPECT_EQ(run({"-lv", "1"}), "");
}

}  // namespace
}  // namespace winnow::test
