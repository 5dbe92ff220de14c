// SPDX-License-Identifier: Apache-2.0
// Which arguments start.sh hands to the program; installing, building and fetching are replaced.
#include <fstream>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

namespace fs = std::filesystem;

class Start : public ::testing::Test {
protected:
    void SetUp() override {
        write("examples/winnow/lib.sh",
              "root=$(cd \"$(dirname \"${BASH_SOURCE[0]}\")/../..\" && pwd)\n"
              "install_packages_for() { :; }\nbuild() { :; }\nremove_scratch() { :; }\nsay() { :; }\n");
        write("models/fetch.sh", "echo fetched.gguf\n");
        write("build/release/bin/winnow", "#!/bin/sh\necho \"$@\"\n");
        fs::permissions(folder_.path("build/release/bin/winnow"), fs::perms::owner_all);
        fs::copy_file(std::string(WINNOW_TEST_DATA) + "/../examples/winnow/start.sh",
                      folder_.path("examples/winnow/start.sh"));
        options_.program = "/bin/bash";
    }

    std::string handed_over(std::vector<std::string> arguments) const {
        arguments.insert(arguments.begin(), folder_.path("examples/winnow/start.sh"));
        const Outcome outcome = run_program(arguments, "", options_);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome.out;
    }

    TemporaryFolder folder_;
    Program::Options options_;

private:
    void write(const std::string& name, const std::string& text) const {
        fs::create_directories(fs::path(folder_.path(name)).parent_path());
        folder_.write(name, text);
    }
};

TEST_F(Start, PutsTheFetchedModelInFrontWhereNoneWasGiven) {
    EXPECT_EQ(handed_over({}), "-m fetched.gguf\n");
    EXPECT_EQ(handed_over({"-p", "-m is a flag"}), "-m fetched.gguf -p -m is a flag\n");
    EXPECT_EQ(handed_over({"-mli"}), "-m fetched.gguf -mli\n");
    EXPECT_EQ(handed_over({"bench", "-r", "1"}), "-m fetched.gguf bench -r 1\n");
}

TEST_F(Start, TakesTheModelOrShapeThatIsGiven) {
    const std::vector<std::vector<std::string>> own{
        {"-m", "x.gguf"},       {"-mx.gguf"},           {"--model=x.gguf"},    {"bench", "--shape", "8b"},
        {"info", "--shape=8b"}, {"info", "--policies"}, {"--completion-bash"}, {"--help"},
        {"help", "chat"}};
    for (const std::vector<std::string>& arguments : own) {
        std::string line;
        for (const std::string& argument : arguments) line += (line.empty() ? "" : " ") + argument;
        EXPECT_EQ(handed_over(arguments), line + "\n");
    }
    options_.environment["WINNOW_MODEL"] = "x.gguf";
    EXPECT_EQ(handed_over({"chat"}), "chat\n");
}

// What would be downloaded with says so, on standard error, and fails.
TEST(Fetch, DownloadsNothingWhereThatIsForbidden) {
    const TemporaryFolder folder;
    fs::create_directories(folder.path("bin"));
    folder.write("bin/python3", "#!/bin/sh\necho python3 was run >&2\nexit 1\n");
    fs::permissions(folder.path("bin/python3"), fs::perms::owner_all);
    Program::Options options;
    options.program = "/bin/bash";
    options.environment = {{"PATH", folder.path("bin") + ":/usr/bin:/bin"},
                           {"WINNOW_MODELS", folder.path("models")},
                           {"XDG_DATA_HOME", folder.path("data")},
                           {"WINNOW_NO_DOWNLOAD", "1"}};
    const std::string script = std::string(WINNOW_TEST_DATA) + "/../models/fetch.sh";
    const Outcome refused = run_program({script, "smollm2"}, "", options);
    EXPECT_EQ(refused.status, 1);
    EXPECT_EQ(refused.out, "");
    EXPECT_EQ(refused.err,
              "fetch.sh: SmolLM2-135M-Instruct.Q4_1.gguf is in none of the model directories and WINNOW_NO_DOWNLOAD is "
              "1: put it into " +
                  folder.path("data/winnow/models") + "\n");
    EXPECT_EQ(folder.count(), 1u);
    // What is there already is found.
    fs::create_directories(folder.path("models"));
    const std::string model = folder.write("models/SmolLM2-135M-Instruct.Q4_1.gguf", "");
    EXPECT_EQ(run_program({script, "smollm2"}, "", options).out, model + "\n");
}

}  // namespace
}  // namespace winnow::test
