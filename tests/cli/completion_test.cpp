// SPDX-License-Identifier: Apache-2.0
// The scripts that complete command lines, run by the shells that are installed.
#include <gmock/gmock.h>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string script_for(const std::string& shell) {
    const Outcome outcome = run_program({"--completion-" + shell});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
}

Outcome run_shell(const std::string& shell, const std::vector<std::string>& arguments) {
    Program::Options options;
    options.program = shell;
    return run_program(arguments, "", options);
}

TEST(Completion, BashCompletesCommandsFlagsAndFiles) {
    const TemporaryFolder folder;
    const std::string script = folder.write("winnow.bash", script_for("bash"));
    folder.write("some-model.gguf", "");
    const auto complete = [&](const std::string& words, int at) {
        const Outcome outcome =
            run_shell("/bin/bash",
                      {"-c", "cd " + folder.path("") + " && source " + script + " && COMP_WORDS=(" + words +
                                 ") COMP_CWORD=" + std::to_string(at) + " && _winnow && echo \"<${COMPREPLY[*]}>\""});
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome.out;
    };
    EXPECT_EQ(complete("winnow perp", 1), "<perplexity>\n");
    EXPECT_EQ(complete("winnow --simple", 1), "<--simple-io>\n");  // the chat is the default
    EXPECT_EQ(complete("winnow bench --rep", 2), "<--repetitions>\n");
    EXPECT_EQ(complete("winnow generate --rep", 2), "<--repeat-penalty --repeat-last-n>\n");
    EXPECT_EQ(complete("winnow bench -m some", 3), "<some-model.gguf>\n");
    EXPECT_EQ(complete("winnow bench -o some", 3), "<>\n");                     // a format ...
    EXPECT_EQ(complete("winnow calibrate -o some", 3), "<some-model.gguf>\n");  // ... and a file
    EXPECT_THAT(complete("winnow info -c", 2), HasSubstr("-ctk"));
}

TEST(Completion, OtherShellsReadTheirs) {
    for (const std::string shell : {"zsh", "fish"}) {
        const std::string script = script_for(shell);
        for (const char* part : {"perplexity", "repetitions", "simple-io", "most tokens of a prefill chunk"})
            EXPECT_THAT(script, HasSubstr(part)) << shell;
        const std::string program = "/usr/bin/" + shell;
        if (!std::filesystem::exists(program)) continue;
        const TemporaryFolder folder;
        const Outcome checked = run_shell(program, {"-n", folder.write("winnow", script)});
        EXPECT_EQ(checked.status, 0) << checked.err;
    }
}

}  // namespace
}  // namespace winnow::test
