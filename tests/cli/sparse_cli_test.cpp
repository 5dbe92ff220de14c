// SPDX-License-Identifier: Apache-2.0
// What chat and generate say about sparse attention in their statistics line.
#include <gmock/gmock.h>

#include <cstdlib>

#include "models/model_config.h"
#include "models/sidecar.h"
#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class SparseProgram : public OnDevice {
protected:
    static std::string model() {  // with room for a window and something outside it
        static const std::string path = [] {
            TinyOptions options;
            options.n_ctx = 1024;
            const std::vector<std::byte> bytes = make_tiny_gguf(options);
            return Files::shared().write("sparse.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
        }();
        return path;
    }
    static std::string prompt() {
        std::string words;
        for (int i = 0; i < 40; ++i) words += "the " + std::to_string(i * 7919 % 1000) + " rivers ";
        return words;
    }
    static std::string stats_line(const Outcome& outcome) {
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        const std::size_t at = outcome.err.find("[ prompt ");
        EXPECT_NE(at, std::string::npos) << outcome.err;
        return at == std::string::npos ? "" : outcome.err.substr(at, outcome.err.find('\n', at) - at);
    }
    static std::string stats(std::vector<std::string> more) {
        std::vector<std::string> all{"generate", "-m", model(),  "-p", prompt(),
                                     "-n",       "4",  "--temp", "0",  "--show-timings"};
        all.insert(all.end(), more.begin(), more.end());
        return stats_line(run_program(all));
    }
    static double number_after(const std::string& line, const std::string& part) {
        const std::size_t at = line.find(part);
        EXPECT_NE(at, std::string::npos) << line;
        return at == std::string::npos ? -1 : std::atof(line.c_str() + at + part.size());
    }
};

TEST_F(SparseProgram, SaysWhatWasKeptAndCaptured) {
    const std::string dense = stats({});
    EXPECT_THAT(dense, Not(HasSubstr("kept")));
    EXPECT_THAT(dense, Not(HasSubstr("mass")));
    const std::string below = stats({"--sparse", "exact", "--sparse-min-ctx", "1000"});
    EXPECT_THAT(below, Not(HasSubstr("kept")));

    const std::string plain = stats({"--sparse", "exact", "--sparse-mass", "0.6", "--sparse-min-ctx", "0"});
    EXPECT_GT(number_after(plain, "| kept "), 1);
    EXPECT_LT(number_after(plain, "| kept "), 99);
    EXPECT_THAT(plain, Not(HasSubstr("mass")));
    for (const char* audit : {"full", "1", "2"}) {
        const std::string line =
            stats({"--sparse", "exact", "--sparse-mass", "0.6", "--sparse-min-ctx", "0", "--audit", audit});
        const double mean = number_after(line, "attention mass without sinks "), p5 = number_after(line, ", p5 "),
                     least = number_after(line, ", min ");
        EXPECT_GT(mean, 0.5) << line;
        EXPECT_LE(mean, 1) << line;
        EXPECT_LE(p5, mean + 1e-3) << line;
        EXPECT_LE(least, p5 + 1e-3) << line;
        EXPECT_GT(number_after(line, "| kept "), 1);
    }
    const std::string whole =
        stats({"--sparse", "exact", "--sparse-mass", "1", "--sparse-min-ctx", "0", "--audit", "full"});
    EXPECT_THAT(whole, HasSubstr("kept 100.0 %"));
    EXPECT_THAT(whole, HasSubstr("attention mass without sinks 1.000, p5 1.000, min 1.000"));
}

// Phases beyond the layers audit nothing, and share one recording: not one for each of a million.
TEST_F(SparseProgram, RareAuditsCostNothing) {
    const std::string line =
        stats({"--sparse", "exact", "--sparse-mass", "0.6", "--sparse-min-ctx", "0", "--audit", "1000000"});
    EXPECT_GT(number_after(line, "| kept "), 1);
    EXPECT_GT(number_after(line, "attention mass without sinks "), 0.5) << line;  // of the first steps
}

TEST_F(SparseProgram, RingsHaveNothingToCompareWith) {
    const std::string line =
        stats({"--sparse", "streaming", "--sparse-window", "64", "--sparse-min-ctx", "0", "--audit", "full"});
    EXPECT_THAT(line, HasSubstr("attention mass n/a"));
    EXPECT_LT(number_after(line, "| kept "), 50);
}

TEST_F(SparseProgram, ChatSaysItForEachAnswer) {
    const Outcome outcome =
        run_program({"chat", "-m", model(), "-n", "4", "--temp", "0", "--sparse", "quest", "--sparse-budget", "80",
                     "--sparse-window", "32", "--sparse-min-ctx", "0", "--audit", "full"},
                    prompt() + "\n" + prompt().substr(0, 100) + "\n");
    EXPECT_THAT(stats_line(outcome), HasSubstr("| kept "));
    std::size_t n = 0;
    for (std::size_t at = 0; (at = outcome.err.find("| kept ", at)) != std::string::npos; ++at) ++n;
    EXPECT_EQ(n, 2u) << outcome.err;
}

// A filter that lets through a number of tokens may be in the way of the mass: it is said once, and only then.
TEST_F(SparseProgram, SaysWhereAFilterBoundsTheMass) {
    const TemporaryFolder folder;
    const std::string with_sidecar = folder.copy(model(), "old.gguf");
    const GgufFile file = GgufFile::open(with_sidecar);
    Calibration calibration = assume_calibration(read_model_shape(file));
    const auto lines = [&](const std::vector<std::string>& more) {
        std::vector<std::string> all{"generate", "-m", with_sidecar, "-p", "the", "-n", "1"};
        all.insert(all.end(), more.begin(), more.end());
        const Outcome outcome = run_program(all);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return own_lines(outcome.err, "winnow: note: --sparse-mass");
    };
    const auto says = [](const char* tokens) {
        return ::testing::ElementsAre(AllOf(HasSubstr("--sparse-mass 0.9"), HasSubstr(tokens)));
    };
    EXPECT_THAT(lines({"--sparse", "twilight", "--sparse-mass", "0.9"}), says("25 % of the tokens, at least 256"));
    EXPECT_THAT(lines({"--sparse", "twilight", "--sparse-mass", "1"}),
                ::testing::IsEmpty());  // the filter is open then
    EXPECT_THAT(lines({"--sparse", "exact", "--sparse-mass", "0.9"}), ::testing::IsEmpty());
    write_sidecar(sidecar_beside(with_sidecar), calibration, model_hash(file));
    EXPECT_THAT(lines({"--sparse", "hisa", "--sparse-mass", "0.9"}), ::testing::IsEmpty());
    calibration.codes = {};
    write_sidecar(sidecar_beside(with_sidecar), calibration, model_hash(file));
    EXPECT_THAT(lines({"--sparse", "hisa", "--sparse-mass", "0.9"}), says("8192 tokens"));
    EXPECT_THAT(lines({"--sparse", "hisa"}), ::testing::IsEmpty());
    EXPECT_THAT(lines({"--sparse", "hisa", "--sparse-mass", "0.9", "--sparse-budget", "500"}), ::testing::IsEmpty());
}

TEST_F(SparseProgram, WarnsOfSettingsWithoutEffect) {
    const Outcome outcome = run_program(
        {"generate", "-m", model(), "-p", "the", "-n", "1", "--sparse", "streaming", "--sparse-mass", "0.9"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("warning: --sparse-mass has no effect on --sparse streaming"));
    for (const char* command : {"generate", "perplexity"}) {
        const Outcome off = run_program(
            {command, "-m", model(), "-p", prompt(), "-c", "434", "--sparse-mass", "0.9", "--sparse-window", "128"});
        EXPECT_EQ(off.status, 0) << off.err;
        EXPECT_THAT(own_lines(off.err, "winnow: warning: --"),
                    ::testing::ElementsAre("winnow: warning: --sparse-mass has no effect without --sparse NAME",
                                           "winnow: warning: --sparse-window has no effect without --sparse NAME"));
    }
    expect_error(run_program({"generate", "-m", model(), "-p", "the", "--sparse", "streaming", "--sparse-window", "0"}),
                 2, "--sparse-window");
    expect_error(run_program({"generate", "-m", model(), "-p", "the", "--sparse", "exact", "--audit", "0"}), 2,
                 "--audit 0");
    expect_error(run_program({"generate", "-m", model(), "-p", "the", "--sparse", "exact", "--audit", "4000000000"}), 2,
                 "1 to 1000000");
    for (const char* preset : {"off", "exact", "streaming"})
        expect_error(run_program({"generate", "-m", model(), "-p", "the", "--sparse", preset, "--sparse-compensation"}),
                     2, "--sparse-compensation");
}

}  // namespace
}  // namespace winnow::test
