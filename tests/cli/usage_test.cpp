// SPDX-License-Identifier: Apache-2.0
// Flags, environment, exit statuses: nothing here needs a device.
#include <regex>

#include "models/chat_template.h"
#include "tests/cli/program.h"
#include "winnow/version.h"

namespace winnow::test {
namespace {

TEST(Usage, HelpAndVersionGoToStandardOutput) {
    for (const char* command : {"chat", "generate", "tokenize", "perplexity", "info", "bench"}) {
        const Outcome help = run_program({command, "--help"});
        EXPECT_EQ(help.status, 0);
        EXPECT_NE(help.out.find("Usage: winnow " + std::string(command)), std::string::npos) << help.out;
    }
    const Outcome help = run_program({"-h"});
    EXPECT_EQ(help.status, 0);
    EXPECT_NE(help.out.find("-ngl, --gpu-layers"), std::string::npos) << help.out;
    EXPECT_NE(help.out.find("perplexity"), std::string::npos);
    EXPECT_EQ(run_program({"--version"}).out, "winnow " + version().text + " (cooperative matrices: " +
                                                  (version().cooperative_matrices ? "yes" : "no") + ")\n");
}

TEST(Usage, HelpIsAWordTooItsLinesAreShortAndItNamesDefaults) {
    EXPECT_EQ(run_program({"help"}).out, run_program({"--help"}).out);
    expect_error(run_program({"help", "generat"}), 2, "'generat' is no command and no flag: did you mean generate?");
    for (const char* command : {"chat", "generate", "tokenize", "perplexity", "info", "bench", "eval", "calibrate"}) {
        const Outcome help = run_program({"help", command});
        EXPECT_EQ(help.status, 0) << help.err;
        EXPECT_EQ(help.out, run_program({command, "--help"}).out);
        // One line for each flag again: "  -n, --predict N   most tokens ... (default)".
        std::vector<std::string> flags;
        std::istringstream lines(help.out);
        for (std::string line; std::getline(lines, line);) {
            EXPECT_LE(line.size(), 100u) << command << ": " << line;
            if (line.starts_with("  -")) flags.push_back(line);
            else if (line.starts_with("   ") && !flags.empty())
                flags.back() += line.substr(line.find_first_not_of(' ') - 1);
        }
        EXPECT_GT(flags.size(), 10u) << help.out;
        for (const std::string& flag : flags) {
            static const std::regex has_default("^  -[^ ]+(, -[^ ]+)* (N|N,\\.\\.|P|T|R|X|WHEN|TYPE|FORMAT) .*");
            if (!std::regex_match(flag, has_default)) continue;
            EXPECT_TRUE(flag.find("default") != flag.npos || flag.find("accepted") != flag.npos)
                << command << ": " << flag;
        }
    }
}

TEST(Usage, WrongFlagsExitWithTwoAndOneLine) {
    expect_error(run_program({"--no-such-flag"}), 2, "--no-such-flag");
    expect_error(run_program({"generat"}), 2, "'generat' is no command");
    expect_error(run_program({"-m"}), 2, "-m lacks its value, FILE: see winnow --help");
    expect_error(run_program({"bench", "-n"}), 2, "-n lacks its value, N,..: see winnow bench --help");
    expect_error(run_program({}), 2, "no model: give one with -m FILE.gguf; winnow --help lists the rest");
    expect_error(run_program({"-m", "x", "-p", "a", "-f", "b"}), 2, "-p or -f");
    expect_error(run_program({"-m", "x", "-c", "abc"}), 2, "--ctx-size");
    expect_error(run_program({"-m", "x", "-c", "-5"}), 2, "--ctx-size");
    expect_error(run_program({"-m", "x", "-c", "99999999999"}), 2, "--ctx-size");
    expect_error(run_program({"-m", "x", "--temp", "warm"}), 2, "--temp");
    expect_error(run_program({"-m", "x", "--top-p", "1.5"}), 2, "--top-p");
    expect_error(run_program({"-m", "x", "-ctk", "q5_1"}), 2, "q8_0");
    expect_error(run_program({"generate", "-m", "x", "--color", "maybe"}), 2, "--color: maybe");
    expect_error(run_program({"generate", "-m", "x", "-fa", "maybe"}), 2, "--fa: maybe");
    expect_error(run_program({"info", "-m", "x", "--fit", "much"}), 2, "--fit much");
    expect_error(run_program({"generate", "-m", "x", "-p", "a", "--chat-template", "no-such"}), 2, "chatml, llama3");
    expect_error(run_program({"-m", "x", "-ctk", "f32", "-ctv", "f16"}), 2, "does not mix");
    for (const char* flag : {"-n", "-c", "-t"})
        expect_error(run_program({"-m", "x", flag, "2.5"}), 2, " = 2.5 is no whole number: see winnow --help");
    expect_error(run_program({"perplexity", "-m", "x", "--windows", "-1"}), 2, "--windows: '-1' is no number from 0");
    expect_error(run_program({"tokenize", "-m", "x", "--json=maybe"}), 2, "--json=maybe: give nothing behind the flag");
    for (const char* seed : {"18446744073709551616", "99999999999999999999", "-2", "1.5", "0x1", "", "abc"})
        expect_error(run_program({"-m", "x", "--seed", seed}), 2, "--seed");
    for (const char* size : {"8", "8000", "1048575", "8XB", "G"})
        expect_error(run_program({"info", "--shape", "8b", "--fit=" + std::string(size)}), 2, "8G or 8GiB");
    expect_error(run_program({"bench", "-m", "x", "-p", "12,x"}), 2, "-p 12,x");
    expect_error(run_program({"bench", "-m", "x", "-p", "0", "-n", "0"}), 2, "nothing to measure");
}

TEST(Usage, AMisspeltFlagIsNamedAndTheNearestOneToo) {
    expect_error(run_program({"--promt", "hi"}), 2,
                 "--promt is no flag of winnow: did you mean --prompt? see winnow --help");
    expect_error(run_program({"generate", "--temperture=1"}), 2,
                 "--temperture is no flag of winnow generate: did you mean --temperature? see winnow generate --help");
    expect_error(run_program({"-m", "x", "--ctx-sise", "9", "chat"}), 2,
                 "--ctx-sise is no flag of winnow: did you mean --ctx-size?");
    expect_error(run_program({"-gnl", "all"}), 2, "-gnl is no flag of winnow: did you mean -ngl?");
    expect_error(run_program({"generat"}), 2, "did you mean generate?");
    // Nothing is near.
    expect_error(run_program({"--no-such-flag", "5"}), 2, "--no-such-flag is no flag of winnow: see winnow --help");
    expect_error(run_program({"-5"}), 2, "-5 is no flag of winnow: see");
    expect_error(run_program({"--"}), 2, "-- is no flag of winnow: see");
    // Other commands have it.
    expect_error(run_program({"tokenize", "--temp", "1"}), 2,
                 "--temp is no flag of winnow tokenize: it is one of chat, generate; see winnow tokenize --help");
    expect_error(run_program({"--presets", "exact"}), 2, "--presets is no flag of winnow chat: it is one of eval;");
}

// Each would be read as letters of winnow's own: -hf as -h -f, -mg as the model g.
TEST(Usage, FlagsOfLlamaCppThatWinnowLacksSayWhatToDo) {
    expect_error(run_program({"-hf", "user/repo"}), 2,
                 "-hf is no flag of winnow: it downloads no model; give a file with -m FILE.gguf; see winnow --help");
    expect_error(run_program({"--hf-repo=user/repo"}), 2, "--hf-repo is no flag of winnow: it downloads no model");
    expect_error(run_program({"-m", "x", "-mg", "0"}), 2, "-mg is no flag of winnow: choose the device with -dev");
    expect_error(run_program({"bench", "-m", "x", "-sm", "none"}), 2, "-sm is no flag of winnow bench: a model runs");
    expect_error(run_program({"-m", "x", "-fit", "on"}), 2, "-fit is no flag of winnow chat: without -c the context");
    expect_error(run_program({"generate", "-m", "x", "--fit", "off"}), 2,
                 "--fit is no flag of winnow generate: without");
    for (const char* flag : {"-nkvo", "-ts", "-cb", "-tb", "-np"})
        expect_error(run_program({"-m", "x", flag}), 2, std::string(flag) + " is no flag of winnow: ");
    // Values may stand behind a letter, and after a flag they are no flags.
    const std::string& model = Files::shared().vocabulary();
    EXPECT_EQ(run_program({"tokenize", "-m" + model, "-phello"}).status, 0);
    EXPECT_EQ(run_program({"tokenize", "-m", model, "-p", "-hf"}).status, 0);
    expect_error(run_program({"generate", "-m", "missing", "-n-1", "-s7", "-t8", "-p", "a"}), 4, "missing");
}

TEST(Usage, AWordThatNoFlagTakesIsNamedWithTheFlagItMayNeed) {
    expect_error(run_program({"some.gguf"}), 2, "'some.gguf' is no command and no flag: did you mean -m 'some.gguf'?");
    expect_error(run_program({"Who are you?"}), 2, "did you mean -p 'Who are you?'? see winnow --help");
    expect_error(run_program({"someword"}), 2, "'someword' is no command and no flag: see winnow --help");
    expect_error(run_program({"generate", "some.gguf"}), 2, "did you mean -m 'some.gguf'? see winnow generate --help");
    expect_error(run_program({"generate", "-m", "x", "hello"}), 2,
                 "'hello' is the value of no flag: did you mean -p 'hello'? see winnow generate --help");
    expect_error(run_program({"info", "-m", "x", "hello"}), 2,
                 "'hello' is the value of no flag: see winnow info --help");
    expect_error(run_program({"generate", "-m", "x", ""}), 2, "'' is the value of no flag");
    // Behind a letter with or without a '='.
    const std::string& model = Files::shared().vocabulary();
    EXPECT_EQ(run_program({"tokenize", "-m=" + model, "-p=a"}).out, run_program({"tokenize", "-m", model, "-pa"}).out);
    expect_error(run_program({"-m", "x", "-c=none"}), 2, "--ctx-size: 'none' is no number");
}

TEST(Usage, AFlagIsNoValueAndAValueMayBeginWithADash) {
    expect_error(run_program({"-m", "x", "-n", "--temp", "0"}), 2, "-n lacks its value: --temp is a flag");
    expect_error(run_program({"-p", "--temp", "0", "generate"}), 2, "write --prompt=--temp");
    const std::string& model = Files::shared().vocabulary();
    const auto ids = [&](const std::vector<std::string>& text) {
        std::vector<std::string> arguments{"tokenize", "-m", model, "--ids"};
        arguments.insert(arguments.end(), text.begin(), text.end());
        const Outcome outcome = run_program(arguments);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome.out;
    };
    for (const std::string text : {"-hello", "--- a/file", "--what=is this", "-1", "-nice"}) {
        EXPECT_EQ(ids({"-p", text}), ids({"--prompt=" + text})) << text;
        EXPECT_EQ(ids({"--prompt", text}), ids({"--prompt=" + text})) << text;
    }
}

TEST(Usage, FlagsMayStandBeforeOrAfterTheCommand) {
    const std::string& model = Files::shared().vocabulary();
    const Outcome after = run_program({"tokenize", "-m", model, "-p", "chat", "--ids"});
    const Outcome before = run_program({"-m", model, "-p", "chat", "--ids", "tokenize"});
    EXPECT_EQ(after.status, 0) << after.err;
    EXPECT_EQ(before.status, 0) << before.err;
    EXPECT_FALSE(after.out.empty());
    EXPECT_EQ(after.out, before.out);
    // What takes a file in eval takes nothing here.
    const Outcome json = run_program({"--json", "tokenize", "-m", model, "-p", "chat"});
    EXPECT_EQ(json.status, 0) << json.err;
    EXPECT_TRUE(json.out.starts_with("{")) << json.out;
    // A value that happens to be a command's name stays one.
    EXPECT_EQ(run_program({"-p", "tokenize", "--ids", "tokenize", "-m", model}).status, 0);
}

TEST(Usage, TheEnvironmentStandsInForFlagsAndTheCommandLineWins) {
    const Files& files = Files::shared();
    Program::Options options;
    options.environment["WINNOW_MODEL"] = files.vocabulary();
    EXPECT_EQ(run_program({"tokenize", "-p", "a"}, "", options).status, 0);
    options.environment["WINNOW_MODEL"] = files.path("missing.gguf");
    EXPECT_EQ(run_program({"tokenize", "-p", "a", "-m", files.vocabulary()}, "", options).status, 0);
    options.environment["WINNOW_TEMP"] = "warm";
    expect_error(run_program({"-m", files.tiny()}, "", options), 2, "(of WINNOW_TEMP)");
    const Outcome typed = run_program({"-m", files.tiny(), "--temperature", "hot"}, "", options);
    expect_error(typed, 2, "--temp");
    EXPECT_EQ(typed.err.find("WINNOW_TEMP"), std::string::npos) << typed.err;
}

TEST(Usage, AFlagWithoutAValueIsSwitchedByItsTwinInTheEnvironment) {
    const std::vector<std::string> call{"tokenize", "-m", Files::shared().vocabulary(), "-p", "a"};
    Program::Options options;
    for (const auto& [value, is_json] :
         {std::pair("1", true), {"on", true}, {"0", false}, {"off", false}, {"", false}}) {
        options.environment["WINNOW_JSON"] = value;
        const Outcome outcome = run_program(call, "", options);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        EXPECT_EQ(outcome.out.starts_with("{"), is_json) << value;
    }
    options.environment["WINNOW_JSON"] = "maybe";
    expect_error(run_program(call, "", options), 2, "WINNOW_JSON=maybe: give 1, on, yes or true, or 0, off, no or");
}

TEST(Usage, AWrongValueIsNotPutDownToAFlagWhoseNameItsOwnContains) {
    Program::Options options;
    options.environment["WINNOW_SPARSE"] = "quest";
    const Outcome typed = run_program({"-m", "x", "--sparse-mass", "7"}, "", options);
    expect_error(typed, 2, "--sparse-mass");
    EXPECT_EQ(typed.err.find("(of "), std::string::npos) << typed.err;
    options.environment["WINNOW_SPARSE_MASS"] = "7";
    expect_error(run_program({"-m", "x"}, "", options), 2, "(of WINNOW_SPARSE_MASS)");
}

TEST(Usage, ModelNamesAreLookedUpInTheModelDirectories) {
    const Files& files = Files::shared();
    Program::Options options;
    options.environment["WINNOW_MODELS"] = "/nonexistent:" + files.path("");
    EXPECT_EQ(run_program({"tokenize", "-m", "vocabulary", "-p", "a"}, "", options).status, 0);
    EXPECT_EQ(run_program({"tokenize", "-m", "vocabulary.gguf", "-p", "a"}, "", options).status, 0);
    expect_error(run_program({"tokenize", "-m", "other", "-p", "a"}, "", options), 4, "other");
}

TEST(Usage, TheHelpNamesEveryChatTemplate) {
    const std::string help = run_program({"--help"}).out;
    for (const std::string_view name : ChatTemplate::names()) EXPECT_NE(help.find(name), std::string::npos) << name;
}

TEST(Usage, WithoutADeviceTheStatusIsThree) {
    const Files& files = Files::shared();
    Program::Options options;
    options.environment["VK_DRIVER_FILES"] = "/nonexistent";
    options.environment["VK_ICD_FILENAMES"] = "/nonexistent";
    expect_error(run_program({"--list-devices"}, "", options), 3, "");
    expect_error(run_program({"-m", files.tiny(), "-p", "a"}, "", options), 3, "");
    expect_error(run_program({"info", "-m", files.tiny()}, "", options), 3, "");
    EXPECT_EQ(run_program({"tokenize", "-m", files.tiny(), "-p", "a"}, "", options).status, 0);
    expect_error(run_program({"-m", files.path("missing.gguf"), "-p", "a"}, "", options), 4, "missing.gguf");
}

TEST(Usage, ClosedOutputEndsQuietly) {
    const std::string& model = Files::shared().vocabulary();
    Program::Options options;
    options.close_output = true;
    const Outcome closed = run_program({"tokenize", "-m", model, "-p", "a"}, "", options);
    EXPECT_EQ(closed.status, 1);
    EXPECT_TRUE(own_lines(closed.err).empty()) << closed.err;

    Program broken({"tokenize", "-m", model, "-f", "-"});
    broken.stop_reading_output();
    broken.type("a");
    const Outcome outcome = broken.finish();
    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(own_lines(outcome.err).empty()) << outcome.err;
}

}  // namespace
}  // namespace winnow::test
