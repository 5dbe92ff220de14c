// SPDX-License-Identifier: Apache-2.0
// Model files and requests that are wrong: one line, the right status, no crash, nothing
// half-written.
#include <algorithm>
#include <span>

#include "models/gguf.h"
#include "tests/cli/program.h"

namespace winnow::test {
namespace {

TEST(BadModel, MissingAndForeignFiles) {
    const Files& files = Files::shared();
    expect_error(run_program({"-m", files.path("missing.gguf"), "-p", "a"}), 4, "missing.gguf");
    expect_error(run_program({"-m", files.path(""), "-p", "a"}), 4, "");
    expect_error(run_program({"-m", files.write("empty.gguf", ""), "-p", "a"}), 4, "empty.gguf");
    expect_error(
        run_program({"-m", files.write("text.gguf", "This is no model, but a text of some length.\n"), "-p", "a"}), 4,
        "text.gguf");
    expect_error(run_program({"tokenize", "-m", "/dev/null", "-p", "a"}), 4, "");
}

TEST(BadModel, TruncatedAtAnyLength) {
    const Files& files = Files::shared();
    const std::string& bytes = files.tiny_bytes();
    for (const std::size_t length : {std::size_t{4}, std::size_t{23}, std::size_t{24}, std::size_t{1000},
                                     bytes.size() / 4, bytes.size() / 2, bytes.size() - 1}) {
        const std::string path = files.write("cut.gguf", bytes.substr(0, length));
        expect_error(run_program({"-m", path, "-p", "a"}), 4, "cut.gguf");
    }
}

TEST(BadModel, FlippedBitsNeverCrash) {
    const Files& files = Files::shared();
    constexpr std::size_t kFlips = 60;
    const std::size_t header = std::min<std::size_t>(files.tiny_bytes().size(), 8192);
    for (std::size_t i = 0; i < kFlips; ++i) {
        std::string bytes = files.tiny_bytes();
        const std::size_t at = i * header / kFlips;
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << (i % 8)));
        const std::string path = files.write("flipped.gguf", bytes);
        const Outcome outcome = run_program({"tokenize", "-m", path, "-p", "the other one", "--ids"});
        EXPECT_TRUE(outcome.status == 0 || outcome.status == 4)
            << "byte " << at << ", status " << outcome.status << ": " << outcome.err;
        if (outcome.status != 0) {
            EXPECT_EQ(own_lines(outcome.err).size(), 1u) << outcome.err;
        }
    }
}

TEST(BadModel, WithoutTensorsItOnlyTokenizes) {
    const std::string& model = Files::shared().vocabulary();
    EXPECT_EQ(run_program({"tokenize", "-m", model, "-p", "a"}).status, 0);
    expect_error(run_program({"-m", model, "-p", "a"}), 4, "");
}

// Bytes of a tensor's data, overwritten as by a bad sector. Scales become NaN.
std::string damaged(const std::string& bytes, const std::string& path, const char* tensor, std::size_t n_bytes) {
    const GgufFile file = GgufFile::open(path);
    const auto found = std::find_if(file.tensors().begin(), file.tensors().end(),
                                    [&](const GgufTensor& t) { return t.name == tensor; });
    const std::span<const std::byte> data = found->bytes;
    const std::size_t at = bytes.find(std::string(reinterpret_cast<const char*>(data.data()), data.size()));
    EXPECT_NE(at, std::string::npos);
    return std::string(bytes).replace(at + data.size() / 2 / 18 * 18, n_bytes, n_bytes, '\xff');
}

class DamagedWeights : public OnDevice, public ::testing::WithParamInterface<const char*> {};

TEST_P(DamagedWeights, AreReportedWhereLogitsAreUsed) {
    const Files& files = Files::shared();
    const std::string model = files.write("damaged.gguf", damaged(files.tiny_bytes(), files.tiny(), GetParam(), 36));
    const char* const message = "not finite: its file is probably damaged; download it again";
    for (const char* temperature : {"0", "0.8"})
        expect_error(run_program({"generate", "-m", model, "-p", "The river", "-n", "8", "--temp", temperature}), 4,
                     message);
    expect_error(run_program({"chat", "-m", model, "-p", "The river", "-st", "-n", "8"}), 4, message);
    std::string text;
    for (int i = 0; i < 60; ++i) text += "the river ";
    const Outcome perplexity = run_program({"perplexity", "-m", model, "-p", text, "-c", "64"});
    expect_error(perplexity, 4, message);
    EXPECT_EQ(perplexity.out, "");
    expect_error(run_program({"perplexity", "-m", model, "-p", text, "-c", "64", "--sparse", "exact"}), 4, message);
    const std::string logits = files.path("damaged.npy");
    expect_error(run_program({"generate", "-m", model, "-p", "a", "-n", "0", "--logits-out", logits}), 4, message);
    EXPECT_FALSE(files.has("damaged.npy"));
}

INSTANTIATE_TEST_SUITE_P(Tensors, DamagedWeights,
                         ::testing::Values("blk.0.ffn_down.weight", "blk.1.attn_v.weight", "token_embd.weight"),
                         [](const auto& test) {
                             std::string name = test.param;
                             std::replace(name.begin(), name.end(), '.', '_');
                             return name;
                         });

class BadRequest : public OnDevice {};

TEST_F(BadRequest, ContextThatCannotBe) {
    const std::string& model = Files::shared().tiny();
    expect_error(run_program({"-m", model, "-p", "a", "-c", "2000000000"}), 2, "256");
    expect_error(run_program({"info", "-m", model, "-c", "257"}), 2, "257");
    expect_error(run_program({"-m", model, "-p", "a", "-ngl", "1"}), 2, "-ngl all");
    expect_error(run_program({"-m", model, "-p", "a", "--device", "no such device"}), 3, "no such device");
}

TEST_F(BadRequest, ADeviceThatIsNotThere) {
    Program::Options options;
    const std::vector<std::vector<std::string>> calls = {
        {"info"}, {"info", "--json"}, {"--list-devices"}, {"info", "-m", Files::shared().tiny()}};
    for (const std::vector<std::string>& call : calls) {
        std::vector<std::string> named = call;
        named.insert(named.end(), {"-dev", "no such device"});
        expect_error(run_program(named), 3, "no such device");
        options.environment["WINNOW_DEVICE"] = "not this either";
        expect_error(run_program(call, "", options), 3, "not this either");
        named.back() = "0";
        EXPECT_EQ(run_program(named, "", options).status, 0);
    }
}

TEST_F(BadRequest, PromptLongerThanTheContextNamesBothNumbers) {
    const Files& files = Files::shared();
    const std::string text(100, 'x');
    const Outcome chat = run_program({"chat", "-m", files.tiny(), "-p", text, "-st", "-c", "64"});
    expect_error(chat, 2, " tokens but the context holds 64");
    const Outcome raw = run_program({"generate", "-m", files.tiny(), "-p", text, "-c", "64"});
    expect_error(raw, 2, "100 tokens but the context holds 64");
    EXPECT_EQ(raw.out, "");
}

TEST_F(BadRequest, LogitsThatCannotBeWritten) {
    const Files& files = Files::shared();
    const auto generate = [&](const std::string& logits, const std::string& text) {
        return run_program({"generate", "-m", files.tiny(), "-p", text, "-n", "0", "-no-cnv", "--logits-out", logits});
    };
    expect_error(generate("/nonexistent/x.npy", "a"), 1, "/nonexistent/x.npy");
    expect_error(generate(files.path(""), "a"), 1, "");
    expect_error(generate("/dev/full", "a"), 1, "No space left");
    // A failure later on leaves nothing behind, and an older file as it was.
    files.write("old.npy", "old");
    const std::size_t n_before = files.count();
    expect_error(generate(files.path("new.npy"), std::string(1000, 'x')), 2, "256");
    expect_error(generate(files.path("old.npy"), std::string(1000, 'x')), 2, "256");
    EXPECT_EQ(files.count(), n_before);
    EXPECT_EQ(files.read("old.npy"), "old");
}

// Not an error: the answer comes, and a line says why the next start will be slow too.
TEST_F(BadRequest, ACacheFolderThatCannotBeWrittenIsOneWarning) {
    Program::Options options;
    options.environment["XDG_CACHE_HOME"] = Files::shared().write("no-folder", "");
    const Outcome outcome =
        run_program({"generate", "-m", Files::shared().tiny(), "-p", "a", "-n", "1", "--no-warmup"}, "", options);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const std::vector<std::string> lines = own_lines(outcome.err);
    ASSERT_EQ(lines.size(), 1u) << outcome.err;
    EXPECT_NE(lines[0].find("no-folder/winnow"), std::string::npos) << lines[0];
    EXPECT_NE(lines[0].find("XDG_CACHE_HOME"), std::string::npos) << lines[0];
}

// Nor is a disk without room, where Mesa's own cache would end the program.
TEST_F(BadRequest, ACacheFolderWithoutRoomIsAWarning) {
    Program::Options options;
    options.environment["XDG_CACHE_HOME"] = "/proc";  // has room for nothing
    const Outcome outcome = run_program({"info"}, "", options);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const std::vector<std::string> lines = own_lines(outcome.err, "winnow: warning: no room for compiled shaders");
    ASSERT_EQ(lines.size(), 1u) << outcome.err;
    EXPECT_NE(lines[0].find("in '/proc'"), std::string::npos) << lines[0];
    EXPECT_TRUE(own_lines(run_program({"tokenize", "-m", Files::shared().tiny(), "-p", "a"}, "", options).err).empty());
}

TEST(BadFiles, WhatIsReadIsNotWritten) {
    const Files& files = Files::shared();
    const std::string model = files.write("precious.gguf", files.tiny_bytes()), text = files.write("precious.txt", "a");
    const std::string same = files.path("./precious.gguf");
    expect_error(run_program({"calibrate", "-m", model, "-o", same}), 2, "--output");
    expect_error(run_program({"calibrate", "-m", model, "-f", text, "--plot", text}), 2, "--plot");
    expect_error(run_program({"tokenize", "-m", model, "-p", "a", "--log-file", same}), 2, "--log-file");
    expect_error(run_program({"generate", "-m", model, "-f", text, "--logits-out", text}), 2, "--logits-out");
    expect_error(run_program({"eval", "-m", model, "-f", text, "--json", text}), 2, "--json");
    expect_error(run_program({"perplexity", "-m", model, "-f", text, "--kl-divergence-base", text}), 2, "--kl-div");
    expect_error(run_program({"perplexity", "-m", model, "-f", files.path("other.txt"), "--kl-divergence",
                              "--kl-divergence-base", text, "--log-file", text}),
                 2, "--log-file");
    Program::Options options;
    options.environment["WINNOW_MODELS"] = files.path("");
    for (const char* name : {"precious", "precious.gguf"})
        expect_error(run_program({"calibrate", "-m", name, "-o", model}, "", options), 2, "that file is read");
    EXPECT_EQ(files.read("precious.gguf"), files.tiny_bytes());
    EXPECT_EQ(files.read("precious.txt"), "a");
}

TEST(BadFiles, TwoResultsInOneFileAreRefused) {
    const Files& files = Files::shared();
    const std::string model = files.tiny(), file = files.path("result"), same = files.path("./result");
    const std::vector<std::string> eval{"eval", "-m", model, "-f", files.path("missing.txt")};
    const auto with = [&eval](const std::vector<std::string>& outputs) {
        std::vector<std::string> arguments = eval;
        arguments.insert(arguments.end(), outputs.begin(), outputs.end());
        return run_program(arguments);
    };
    expect_error(with({"--json", file, "--plot", same}), 2, "--json writes that file too");
    expect_error(run_program({"calibrate", "-m", model, "-o", file, "--plot", same}), 2, "--output writes that file");
    expect_error(run_program({"generate", "-m", model, "-p", "a", "--prompt-cache", file, "--log-file", same}), 2,
                 "--log-file writes that file too");
    EXPECT_FALSE(files.has("result"));
    files.write("result", "kept");
    expect_error(with({"--json", file, "--plot", same}), 2, "--json writes that file too");
    EXPECT_EQ(files.read("result"), "kept");
    // Two files, and one that keeps nothing: what is wrong is the text.
    expect_error(with({"--json", file, "--plot", files.path("other")}), 1, "missing.txt");
    expect_error(with({"--json", "/dev/null", "--plot", "/dev/null"}), 1, "missing.txt");
}

TEST_F(BadRequest, ResultsThatCannotBeWrittenAreRefusedBeforeTheWork) {
    const std::string& model = Files::shared().tiny();
    expect_error(run_program({"calibrate", "-m", model, "-o", "/nonexistent/x.gguf"}), 1, "/nonexistent/x.gguf");
    expect_error(run_program({"calibrate", "-m", model, "--plot", "/nonexistent/x.svg"}), 1, "/nonexistent/x.svg");
}

TEST_F(BadRequest, SparsePoliciesThatCannotBe) {
    const std::string& model = Files::shared().tiny();
    const auto generate = [&](const std::vector<std::string>& flags) {
        std::vector<std::string> arguments{"generate", "-m", model, "-p", "a", "-n", "1"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        return run_program(arguments);
    };
    for (const char* mass : {"0", "-0.5", "1.01", "nan"})
        expect_error(generate({"--sparse-mass", mass}), 2, "--sparse-mass");
    expect_error(generate({"--sparse", "exact", "--sparse-budget", "67"}), 2, "below sink + window (4 + 64)");
    expect_error(generate({"--sparse", "no-such"}), 2, "twilight");
    // The model has layers 0 and 1.
    for (const char* layers : {"2", "0-2", "5-9", "0,7", "2-"})
        expect_error(generate({"--sparse", "exact", "--sparse-layers", layers}), 2, "the model has 2 layers");
    for (const char* layers : {"1", "0-1", "1-", "0-"})
        EXPECT_EQ(generate({"--sparse", "exact", "--sparse-layers", layers}).status, 0) << layers;
    expect_error(run_program({"info", "-m", model, "--sparse", "exact", "--sparse-layers", "2"}), 2, "2 layers");
    for (const char* layers : {"1-7", "0,7", "2-"})
        expect_error(run_program({"info", "-m", model, "--sparse", "exact", "--sparse-layers", layers}), 2,
                     "the model has 2 layers, 0 to 1");
}

TEST_F(BadRequest, TextsThatCannotBeUsed) {
    const Files& files = Files::shared();
    expect_error(run_program({"perplexity", "-m", files.tiny(), "-p", "too short", "-c", "64"}), 2, "64");
    expect_error(run_program({"perplexity", "-m", files.tiny(), "-f", files.path("missing.txt")}), 1, "missing.txt");
    expect_error(run_program({"perplexity", "-m", files.tiny()}), 2, "-f FILE");
    expect_error(run_program({"generate", "-m", files.tiny()}), 2, "-p TEXT");
    expect_error(run_program({"tokenize", "-m", files.tiny()}), 2, "-p TEXT");
    const std::string blank = files.write("blank.txt", " \n\t\n");
    expect_error(run_program({"-m", files.tiny(), "-p", ""}), 2, "the prompt is empty");
    expect_error(run_program({"-m", files.tiny(), "-f", blank, "--json"}), 2, "the prompt is empty");
    expect_error(run_program({"chat", "-m", files.tiny(), "-f", blank}), 2, "the prompt is empty");
    expect_error(run_program({"generate", "-m", files.tiny(), "-cnv", "-p", " "}), 2, "the prompt is empty");
    expect_error(run_program({"generate", "-m", files.tiny(), "-p", ""}), 2, "the prompt is empty");
    expect_error(run_program({"-m", files.tiny(), "-p", "a", "--chat-template", "no-such"}), 2, "no-such");
}

}  // namespace
}  // namespace winnow::test
