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

    // The program prints the temperature that it would find, in place of its arguments.
    void temperature_instead() const {
        write("build/release/bin/winnow", "#!/bin/sh\necho ${WINNOW_TEMP:-unset}\n");
        fs::permissions(folder_.path("build/release/bin/winnow"), fs::perms::owner_all);
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

// The default model talks nonsense at the program's default temperature.
TEST_F(Start, ChatsCoolerWithTheFetchedModel) {
    temperature_instead();
    EXPECT_EQ(handed_over({}), "0.2\n");
    EXPECT_EQ(handed_over({"-m", "x.gguf"}), "unset\n");
    options_.environment["WINNOW_TEMP"] = "0.7";
    EXPECT_EQ(handed_over({}), "0.7\n");
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

// A first start shows what cmake and ninja do; a later one only what is built, or why nothing could be.
TEST(Build, SaysNothingWhereNothingIsToBeDone) {
    const TemporaryFolder folder;
    const auto write = [&](const std::string& name, const std::string& text) {
        fs::create_directories(fs::path(folder.path(name)).parent_path());
        fs::permissions(folder.write(name, text), fs::perms::owner_all);
    };
    fs::create_directories(folder.path("examples/winnow"));
    fs::copy_file(std::string(WINNOW_TEST_DATA) + "/../examples/winnow/lib.sh", folder.path("examples/winnow/lib.sh"));
    write("bin/glslangValidator", "#!/bin/sh\n");
    write("bin/cmake",
          "#!/bin/sh\n"
          "case $1 in\n"
          "--preset) echo Preset CMake variables >&2; mkdir -p build/$2; : >build/$2/build.ninja; exit $CONFIGURED;;\n"
          "esac\n"
          "echo '[0/2] Re-checking globbed directories...'\n"
          "if [ -n \"$IDLE\" ]; then echo ninja: no work to do.; else echo '[1/1] Linking'; fi\n"
          "exit $BUILT\n");
    write("start.sh", "set -euo pipefail\n. \"$(dirname \"$0\")/examples/winnow/lib.sh\"\nbuild release -DA=ON\n");
    Program::Options options;
    options.program = "/bin/bash";
    options.environment = {
        {"PATH", folder.path("bin") + ":/usr/bin:/bin"}, {"CONFIGURED", "0"}, {"BUILT", "0"}, {"IDLE", ""}};
    const auto start = [&] { return run_program({folder.path("start.sh")}, "", options); };
    EXPECT_EQ(start().err, "Preset CMake variables\n[0/2] Re-checking globbed directories...\n[1/1] Linking\n");
    EXPECT_EQ(start().err, "[1/1] Linking\n");
    options.environment["IDLE"] = "yes";
    const Outcome idle = start();
    EXPECT_EQ(idle.status, 0);
    EXPECT_EQ(idle.out + idle.err, "");
    options.environment["CONFIGURED"] = "1";
    const Outcome unconfigured = start();
    EXPECT_EQ(unconfigured.status, 1);
    EXPECT_EQ(unconfigured.err,
              "Preset CMake variables\nstart.sh: cmake could not configure build/release: the reason "
              "stands above (rm -r build/release starts afresh)\n");
    options.environment["CONFIGURED"] = "0";
    options.environment["IDLE"] = "";
    options.environment["BUILT"] = "1";
    const Outcome unbuilt = start();
    EXPECT_EQ(unbuilt.status, 1);
    EXPECT_EQ(unbuilt.err, "[1/1] Linking\nstart.sh: the build failed: the reason stands above\n");
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
