// SPDX-License-Identifier: Apache-2.0
// Flags that scripts written for other runtimes use, and where models are found.
#include <gmock/gmock.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Flags, PenaltiesThatTheSamplerLacksAreRefusedByName) {
    const std::string& model = Files::shared().tiny();
    for (const char* flag : {"--presence-penalty", "--frequency-penalty"}) {
        const Outcome refused = run_program({"generate", "-m", model, "-p", "a", flag, "0.5"});
        expect_error(refused, 2, std::string(flag) + " 0.5");
        expect_error(refused, 2, "--repeat-penalty");
    }
    expect_error(run_program({"-m", "x", "--presence-penalty", "much"}), 2, "--presence-penalty");
}

TEST(Flags, MoreRepeatedTokensThanTheSamplerKeepsAreRefused) {
    const std::string& model = Files::shared().tiny();
    expect_error(run_program({"generate", "-m", model, "-p", "a", "--repeat-last-n", "1025"}), 2, "1024");
    EXPECT_THAT(run_program({"generate", "--help"}).out, HasSubstr("tokens that count as repeated, at most 1024"));
}

TEST(Flags, LogFilesThatCannotBeWrittenAreOneLine) {
    expect_error(
        run_program({"tokenize", "-m", Files::shared().vocabulary(), "-p", "a", "--log-file", "/nonexistent/log"}), 1,
        "/nonexistent/log");
}

TEST(Flags, TheLogFileHasErrorsTooAndLogDisableSilencesTheTerminal) {
    const Files& files = Files::shared();
    const Outcome failed = run_program({"tokenize", "-m", files.path("missing.gguf"), "-p", "a", "--log-disable",
                                        "--log-file", files.path("error.log")});
    EXPECT_EQ(failed.status, 4);
    EXPECT_TRUE(own_lines(failed.err).empty()) << failed.err;
    EXPECT_THAT(files.read("error.log"), HasSubstr("winnow: error: "));
    EXPECT_THAT(files.read("error.log"), HasSubstr("missing.gguf"));
}

TEST(Flags, ControlCharactersReachNeitherTheTerminalNorTheLog) {
    const Files& files = Files::shared();
    const Outcome failed = run_program({"tokenize", "-m", files.vocabulary(), "-f",
                                        files.path("a\x1b[2Jb\xc2\x9b"
                                                   "31mc\x07\n.txt"),
                                        "--log-file", files.path("control.log")});
    expect_error(failed, 1, "a[2Jb31mc .txt");
    for (const std::string& text : {failed.err, files.read("control.log")}) {
        EXPECT_EQ(text.find('\x1b'), text.npos) << text;
        EXPECT_EQ(text.find("\xc2\x9b"), text.npos) << text;
        EXPECT_EQ(text.find('\x07'), text.npos) << text;
    }
}

TEST(Flags, LogLinesAsJsonAndInColour) {
    const Files& files = Files::shared();
    const std::vector<std::string> base{"tokenize", "-m", files.path("missing.gguf"), "-p", "a"};
    const auto err_of = [&](const std::vector<std::string>& flags) {
        std::vector<std::string> arguments = base;
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        const Outcome outcome = run_program(arguments);
        EXPECT_EQ(outcome.status, 4);
        return outcome.err;
    };
    const std::string log = files.path("lines.jsonl");
    const std::string line = err_of({"--log-jsonl", "--log-colors", "on", "--log-file", log});
    EXPECT_EQ(files.read("lines.jsonl"), line);
    const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(parsed.is_object()) << line;
    EXPECT_EQ(parsed["level"], "error");
    EXPECT_THAT(parsed["message"].get<std::string>(), HasSubstr("missing.gguf"));
    EXPECT_EQ(parsed["time"].get<std::string>().size(), 20u);
    EXPECT_THAT(err_of({"--log-colors"}), HasSubstr("\x1b[31mwinnow: error: \x1b[0m"));
    EXPECT_THAT(err_of({"--color", "on", "--log-colors", "off"}), Not(HasSubstr("\x1b")));
    EXPECT_THAT(err_of({}), Not(HasSubstr("\x1b")));
    expect_error(run_program({"tokenize", "--log-colors=blue"}), 2, "--log-colors");
}

class FlagsOnDevice : public OnDevice {};

TEST_F(FlagsOnDevice, FlagsWithoutEffectSaySoAndAnAutomaticContextIsNamed) {
    const auto notes = [](const std::vector<std::string>& flags) {
        std::vector<std::string> arguments{"generate", "-m", Files::shared().tiny(), "-p", "a", "-n", "1"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        const Outcome outcome = run_program(arguments);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return own_lines(outcome.err);
    };
    const std::string fused = " has no effect: attention is always fused";
    EXPECT_THAT(notes({"-fa", "auto"}), ::testing::ElementsAre("winnow: note: -fa auto" + fused));
    EXPECT_THAT(notes({"-fa"}), ::testing::ElementsAre("winnow: note: -fa on" + fused));
    EXPECT_THAT(notes({"-c", "0"}), ::testing::ElementsAre("winnow: note: -c 0: a context of 256 tokens"));
    EXPECT_TRUE(notes({}).empty());
    EXPECT_TRUE(notes({"-fa", "0", "-c", "0", "-lv", "1"}).empty());
}

TEST_F(FlagsOnDevice, BatchSizeAndZeroPenaltiesAreAccepted) {
    const Outcome outcome = run_program({"generate", "-m", Files::shared().tiny(), "-p", "a", "-n", "1", "-b", "2048",
                                         "--presence-penalty", "0", "--frequency-penalty", "0.0"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
}

TEST_F(FlagsOnDevice, TheLogFileHasWhatTheTerminalIsSpared) {
    const Files& files = Files::shared();
    const Outcome outcome =
        run_program({"generate", "-m", files.tiny(), "-p", "a", "-n", "1", "--log-file", files.path("run.log")});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(own_lines(outcome.err).empty()) << outcome.err;
    EXPECT_THAT(files.read("run.log"), HasSubstr("winnow: device "));
    EXPECT_THAT(files.read("run.log"), HasSubstr("winnow: sampling: "));
}

// As the help says: an unknown template becomes chatml, a missing one a guess from the vocabulary, both with a warning.
TEST_F(FlagsOnDevice, UnknownAndMissingChatTemplatesAreReplacedWithAWarning) {
    const Files& files = Files::shared();
    const auto warning = [&](const std::string& model, const std::string& key, const std::string& marker) {
        std::string bytes = files.read(std::filesystem::path(model).filename());
        const std::size_t at = bytes.find("tokenizer.chat_template");
        EXPECT_NE(at, bytes.npos);
        bytes.replace(at, key.size(), key);
        if (!marker.empty()) {
            const std::size_t end = bytes.find("general.", at);
            for (std::size_t i = at; (i = bytes.find(marker, i)) < std::min(end, at + 400);) bytes[i + 2] = '#';
        }
        const std::string changed = files.write("template.gguf", bytes);
        const Outcome outcome = run_program({"chat", "-m", changed, "-p", "a", "-st", "-n", "1"});
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        const std::vector<std::string> lines = own_lines(outcome.err);
        return lines.size() == 1 ? lines[0] : outcome.err;
    };
    const std::string text = "winnow: warning: the model has a chat template that is unknown: using ";
    EXPECT_THAT(warning(files.tiny(), "tokenizer.chat_template", "<|im_start|>"), HasSubstr(text + "chatml;"));
    EXPECT_THAT(warning(files.tiny_gemma(), "tokenizer.chat_template", "<start_of_turn>"), HasSubstr(text + "chatml;"));
    EXPECT_THAT(warning(files.tiny_gemma(), "tokenizer.chat_templatX", ""),
                HasSubstr("winnow: warning: the model has no chat template: using gemma;"));
    EXPECT_THAT(run_program({"--help"}).out, HasSubstr("guess"));
}

// The prefix and suffix belong to the message, inside the chat template: the prompt is as if they had been typed.
TEST_F(FlagsOnDevice, InputPrefixAndSuffixStandAroundTheMessage) {
    const auto answer = [](const std::string& message, const std::vector<std::string>& flags) {
        std::vector<std::string> arguments{
            "generate", "-m", Files::shared().tiny(), "-cnv",   "-p",    message, "-n", "4", "--temp", "0",
            "-s",       "1",  "--chat-template",      "chatml", "--json"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        const Outcome outcome = run_program(arguments);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome.out.substr(0, outcome.out.find("\"timings\""));
    };
    const std::string typed = answer("Q: who\n?", {});
    EXPECT_EQ(answer("who", {"--in-prefix", "Q: ", "--in-suffix", "\\n?"}), typed);
    EXPECT_NE(answer("who", {}), typed);
    expect_error(run_program({"generate", "-m", Files::shared().tiny(), "-p", "a", "--in-prefix", "b"}), 2, "-cnv");

    Program chat({"chat", "-m", Files::shared().tiny(), "--in-prefix", "Q: ", "-n", "1", "--chat-template", "chatml"});
    chat.type("who\n/save " + Files::shared().path("prefixed.json") + "\n");
    EXPECT_EQ(chat.finish().status, 0);
    EXPECT_THAT(Files::shared().read("prefixed.json"), HasSubstr("\"Q: who\""));
}

// A home with nothing in it but what a test puts there.
class ModelSearch : public ::testing::Test {
protected:
    void SetUp() override {
        std::string pattern = (std::filesystem::temp_directory_path() / "winnow-search-XXXXXX").string();
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        home_ = pattern;
        for (const char* name : {"WINNOW_MODELS", "XDG_DATA_HOME", "XDG_CACHE_HOME", "LLAMA_CACHE", "HF_HUB_CACHE",
                                 "HUGGINGFACE_HUB_CACHE", "HF_HOME"})
            options_.environment[name] = "";
        options_.environment["HOME"] = home_.string();
    }
    void TearDown() override {
        std::error_code ignored;
        std::filesystem::remove_all(home_, ignored);
    }

    std::filesystem::path put(const std::string& path, const std::string& model = Files::shared().vocabulary()) const {
        std::filesystem::create_directories((home_ / path).parent_path());
        std::filesystem::copy_file(model, home_ / path);
        return home_ / path;
    }
    Outcome look_for(const std::string& name) const {
        return run_program({"tokenize", "-m", name, "-p", "a", "-lv", "3"}, "", options_);
    }
    void expect_found(const std::string& name, const std::filesystem::path& where) const {
        const Outcome outcome = look_for(name);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        EXPECT_THAT(outcome.err, HasSubstr(where.string()));
    }

    std::filesystem::path home_;
    Program::Options options_;
};

TEST_F(ModelSearch, LooksIntoTheCachesOfOtherPrograms) {
    expect_error(look_for("some-model"), 4, "some-model");
    // The hub's: a link in a snapshot to a blob.
    put("hub/models--user--repo/blobs/0123abcd");
    const std::filesystem::path snapshot = home_ / "hub/models--user--repo/snapshots/9f8e";
    std::filesystem::create_directories(snapshot);
    std::filesystem::create_symlink("../../blobs/0123abcd", snapshot / "some-model.gguf");
    expect_error(look_for("some-model"), 4, "some-model");  // no variable names the folder yet
    for (const char* variable : {"LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
        options_.environment[variable] = (home_ / "hub").string();
        expect_found("some-model", snapshot / "some-model.gguf");
        expect_found("some-model.gguf", snapshot / "some-model.gguf");
        options_.environment[variable] = "";
    }
    options_.environment["HF_HOME"] = home_.string();
    expect_found("some-model", snapshot / "some-model.gguf");
    expect_error(look_for("0123abcd"), 4, "0123abcd");
}

TEST_F(ModelSearch, KnowsTheDefaultPlaces) {
    expect_found("in-hub", put(".cache/huggingface/hub/models--a--b/snapshots/1/q4/in-hub.gguf"));
    expect_found("downloaded.gguf", put(".cache/llama.cpp/downloaded.gguf"));
    expect_found("studio", put(".lmstudio/models/user/repo/studio.gguf"));
    options_.environment["XDG_CACHE_HOME"] = (home_ / "elsewhere").string();
    expect_error(look_for("in-hub"), 4, "in-hub");
    expect_found("moved", put("elsewhere/huggingface/hub/models--a--b/snapshots/1/moved.gguf"));
}

TEST_F(ModelSearch, TheBeginningOfANameIsEnoughWhereOneModelHasIt) {
    const std::filesystem::path small = put("own/Some-Model-1B.Q4_0.gguf");
    put("own/Some-Model-1B.Q4_0.gguf.winnow.gguf");
    put("own/some-notes.txt");
    options_.environment["WINNOW_MODELS"] = (home_ / "own").string();
    for (const char* name : {"some", "SOME-model", "some-model-1b.q4_0.gguf"}) expect_found(name, small);
    expect_error(look_for("ome-model"), 4, "no model 'ome-model'");
    // The same file of a cache is no second one, another is; a whole name wins.
    put(".lmstudio/models/a/repo/Some-Model-1B.Q4_0.gguf");
    expect_found("some", small);
    const std::filesystem::path large = put(".lmstudio/models/a/repo/Some-Model-7B.gguf");
    expect_error(look_for("some-m"), 2,
                 "'some-m' is the beginning of 2 models: give one of Some-Model-1B.Q4_0.gguf, Some-Model-7B.gguf");
    expect_found("some-model-7", large);
    expect_found("Some-Model-7B", large);
    put("own/some.gguf");
    EXPECT_EQ(look_for("some").status, 0);
}

TEST_F(ModelSearch, PrefersItsOwnFoldersAndTheNewestOfACache) {
    const std::filesystem::path older = put(".lmstudio/models/a/repo/twice.gguf");
    const std::filesystem::path newer = put(".lmstudio/models/b/repo/twice.gguf");
    const auto now = std::filesystem::file_time_type::clock::now();
    std::filesystem::last_write_time(older, now - std::chrono::hours(1));
    std::filesystem::last_write_time(newer, now);
    expect_found("twice", newer);
    std::filesystem::last_write_time(older, now + std::chrono::hours(1));
    expect_found("twice", older);
    put("own/twice.gguf");
    options_.environment["WINNOW_MODELS"] = (home_ / "own").string();
    const Outcome outcome = look_for("twice");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_THAT(outcome.err, Not(HasSubstr(".lmstudio")));
}

}  // namespace
}  // namespace winnow::test
