// SPDX-License-Identifier: Apache-2.0
// The commands on a tiny random model, and on a real one where it is at hand.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using nlohmann::json;

struct Matrix {
    std::size_t n_rows = 0;
    std::size_t n_columns = 0;
    std::vector<float> values;
};

// Only what winnow writes: version 1.0, little-endian f32, two dimensions.
Matrix read_npy(const std::string& bytes) {
    Matrix matrix;
    EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
    const std::size_t header = static_cast<unsigned char>(bytes[8]) + 256u * static_cast<unsigned char>(bytes[9]);
    EXPECT_EQ((10 + header) % 64, 0u);
    const std::string text = bytes.substr(10, header);
    EXPECT_NE(text.find("'descr': '<f4', 'fortran_order': False"), std::string::npos) << text;
    EXPECT_EQ(
        std::sscanf(text.c_str() + text.find("'shape'"), "'shape': (%zu, %zu)", &matrix.n_rows, &matrix.n_columns), 2);
    matrix.values.resize((bytes.size() - 10 - header) / sizeof(float));
    std::memcpy(matrix.values.data(), bytes.data() + 10 + header, matrix.values.size() * sizeof(float));
    EXPECT_EQ(matrix.values.size(), matrix.n_rows * matrix.n_columns);
    return matrix;
}

std::size_t count_words(const std::string& text) {
    std::istringstream stream(text);
    std::size_t n = 0;
    for (std::string word; stream >> word;) ++n;
    return n;
}

json run_json(const std::vector<std::string>& arguments) {
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return json::parse(outcome.out, nullptr, false);
}

TEST(Tokenize, Forms) {
    const Files& files = Files::shared();
    const auto tokenize = [&](std::vector<std::string> more) {
        more.insert(more.begin(), {"tokenize", "-m", files.vocabulary()});
        return run_program(more);
    };
    const Outcome ids = tokenize({"-p", "the end", "--ids"});
    EXPECT_EQ(ids.status, 0) << ids.err;
    EXPECT_EQ(std::count(ids.out.begin(), ids.out.end(), '\n'), 1);
    const Outcome lines = tokenize({"-p", "the end"});
    EXPECT_EQ(static_cast<std::size_t>(std::count(lines.out.begin(), lines.out.end(), '\n')), count_words(ids.out));
    EXPECT_NE(lines.out.find(" -> 'the'"), std::string::npos) << lines.out;
    EXPECT_EQ(tokenize({"-p", "the end", "--pieces"}).out.substr(0, 4), "the\n");

    // Bytes as they are: no escapes, no line end dropped, any bytes.
    files.write("text.txt", "a\\nb\n");
    const Outcome file = tokenize({"-f", files.path("text.txt"), "--ids"});
    EXPECT_EQ(count_words(file.out), 5u) << file.out;
    EXPECT_EQ(tokenize({"-p", "a\\nb\n", "--ids"}).out, file.out);
    EXPECT_EQ(run_program({"tokenize", "-m", files.vocabulary(), "-f", "-", "--ids"}, "a\\nb\n").out, file.out);
    files.write("bytes.txt", std::string("\xff\x00\xfe", 3));
    EXPECT_EQ(count_words(tokenize({"-f", files.path("bytes.txt"), "--ids"}).out), 3u);

    // Unless they are asked for, as generate resolves them.
    EXPECT_EQ(tokenize({"-p", "a\\nb\\n", "-e", "--ids"}).out, tokenize({"-p", "a\nb\n", "--ids"}).out);
    EXPECT_EQ(tokenize({"-p", "a\\nb\n", "-e", "--no-escape", "--ids"}).out, file.out);

    const Outcome special = tokenize({"-p", "<|im_end|>", "--ids"});
    const Outcome plain = tokenize({"-p", "<|im_end|>", "--ids", "--no-parse-special"});
    EXPECT_EQ(count_words(special.out), 1u) << special.out;
    EXPECT_GT(count_words(plain.out), 1u) << plain.out;
    EXPECT_EQ(tokenize({"-p", "", "--ids"}).status, 0);
}

TEST(Tokenize, PiecesAreSafeAtATerminal) {
    const Files& files = Files::shared();
    std::string bytes = files.read("vocabulary.gguf");
    const std::string token = "<|extra_300|>", wild = "\x1b[2Jtra_300";
    ASSERT_NE(bytes.find(token), std::string::npos);
    bytes.replace(bytes.find(token), token.size(), wild + "|>");
    const std::vector<std::string> call{"tokenize", "-m",        files.write("wild.gguf", bytes),
                                        "-p",       wild + "|>", "--pieces"};
    EXPECT_EQ(run_program(call).out, wild + "|>\n");
    Program::Options terminal;
    terminal.terminal = true;
    EXPECT_EQ(run_program(call, "", terminal).out, "[2Jtra_300|>\r\n");
}

// A byte of which the vocabulary has no token, as those of some models: its place is taken by another spelling.
TEST(Tokenize, BytesWithoutATokenAreNamed) {
    const Files& files = Files::shared();
    std::string bytes = files.read("vocabulary.gguf");
    const std::string token = "\xc3\xbf";  // of 0xff, as byte-level BPE spells it
    ASSERT_NE(bytes.find(token), std::string::npos);
    bytes.replace(bytes.find(token), token.size(), "\xd0\xbf");
    const std::string model = files.write("lacking.gguf", bytes);
    const std::string text = files.write("lacking.txt", std::string("a\xff\x00\xff"
                                                                    "b",
                                                                    5));
    const Outcome lacking = run_program({"tokenize", "-m", model, "-f", text, "--ids"});
    EXPECT_EQ(lacking.status, 0);
    EXPECT_EQ(count_words(lacking.out), 3u) << lacking.out;
    const std::vector<std::string> lines = own_lines(lacking.err, "winnow: warning: ");
    ASSERT_EQ(lines.size(), 1u) << lacking.err;
    EXPECT_NE(lines[0].find("2 of the text's bytes (0xff): left out"), std::string::npos) << lines[0];
    const Outcome whole = run_program({"tokenize", "-m", files.vocabulary(), "-f", text, "--ids"});
    EXPECT_EQ(count_words(whole.out), 5u) << whole.out;
    EXPECT_TRUE(own_lines(whole.err).empty()) << whole.err;
}

TEST(Tokenize, NoBosDropsIt) {
    const std::string& model = Files::shared().tiny_gemma();
    const Outcome with = run_program({"tokenize", "-m", model, "-p", "the", "--ids"});
    const Outcome without = run_program({"tokenize", "-m", model, "-p", "the", "--ids", "--no-bos"});
    EXPECT_EQ(with.out, "2 " + without.out);
}

class Commands : public OnDevice {};

TEST_F(Commands, TheSameSeedGivesTheSameText) {
    const std::string& model = Files::shared().tiny();
    const std::vector<std::string> base = {"generate", "-m", model, "-p", "the other", "-n", "24", "--json", "-s"};
    const auto with_seed = [&](const char* seed) {
        std::vector<std::string> arguments = base;
        arguments.push_back(seed);
        return run_json(arguments);
    };
    const json first = with_seed("7");
    const json again = with_seed("7");
    const json other = with_seed("8");
    ASSERT_TRUE(first.is_object());
    EXPECT_EQ(first["tokens"], again["tokens"]);
    EXPECT_EQ(first["text"], again["text"]);
    EXPECT_NE(first["tokens"], other["tokens"]);
    EXPECT_EQ(first["seed"], 7);
    EXPECT_TRUE(first["finish_reason"] == "length" || first["finish_reason"] == "stop");
    EXPECT_GT(first["prompt_tokens"], 0);
    EXPECT_EQ(first["timings"]["predicted_n"], first["tokens"].size());
}

TEST_F(Commands, TheTokensOfThePromptAddUp) {
    const Files& files = Files::shared();
    const std::string text = "the other one and another line in the end", cache = files.path("sum.cache");
    const std::vector<std::string> base = {"generate", "-m", files.tiny(), "-p", text, "--json", "--no-warmup"};
    const std::size_t n = count_words(run_program({"tokenize", "-m", files.tiny(), "-p", text, "--ids"}).out);
    const std::string logits = files.path("sum.npy");
    const std::vector<std::vector<std::string>> ways = {{"-n", "4"},
                                                        {"-n", "1"},
                                                        {"-n", "0"},
                                                        {"-n", "4", "--prompt-cache", cache},
                                                        {"-n", "4", "--prompt-cache", cache},
                                                        {"-n", "0", "--prompt-cache", cache},
                                                        {"-n", "0", "--logits-out", logits},
                                                        {"-n", "2", "--logits-out", logits}};
    for (const std::vector<std::string>& more : ways) {
        std::vector<std::string> arguments = base;
        arguments.insert(arguments.end(), more.begin(), more.end());
        SCOPED_TRACE(::testing::PrintToString(more));
        const json root = run_json(arguments);
        ASSERT_TRUE(root.is_object());
        EXPECT_EQ(root["prompt_tokens"], n);
        EXPECT_EQ(root["timings"]["cache_n"].get<std::size_t>() + root["timings"]["prompt_n"].get<std::size_t>(), n);
    }
}

// The step before the first answer compiles shaders and leaves no trace in it.
TEST_F(Commands, WarmingUpChangesNothing) {
    const Files& files = Files::shared();
    for (const std::string& model : {files.tiny(), files.tiny_gemma()}) {
        for (const std::vector<std::string>& mode :
             {std::vector<std::string>{},
              {"--sparse", "exact", "--sparse-mass", "0.5", "--sparse-window", "16", "--sparse-min-ctx", "0"}}) {
            std::vector<std::string> arguments = {"generate",
                                                  "-m",
                                                  model,
                                                  "-p",
                                                  "the other one and another line in the end",
                                                  "-n",
                                                  "24",
                                                  "-s",
                                                  "5",
                                                  "--repeat-penalty",
                                                  "1.1",
                                                  "--json",
                                                  "--log-file",
                                                  files.path("warm.log")};
            arguments.insert(arguments.end(), mode.begin(), mode.end());
            const json warm = run_json(arguments);
            EXPECT_NE(files.read("warm.log").find("warm-up: "), std::string::npos);
            arguments.push_back("--no-warmup");
            const json cold = run_json(arguments);
            EXPECT_EQ(files.read("warm.log").find("warm-up"), std::string::npos);
            ASSERT_TRUE(warm.is_object() && cold.is_object());
            EXPECT_EQ(warm["tokens"], cold["tokens"]);
            EXPECT_EQ(warm["timings"]["prompt_n"], cold["timings"]["prompt_n"]);
            EXPECT_EQ(warm["timings"]["predicted_n"], cold["timings"]["predicted_n"]);
        }
    }
}

TEST_F(Commands, PlainTextIsPromptAndCompletion) {
    const std::string& model = Files::shared().tiny();
    const std::vector<std::string> base = {"generate", "-m", model, "-p", "the\\tend", "-n", "8", "--temp", "0"};
    const auto with = [&](const std::vector<std::string>& more) {
        std::vector<std::string> arguments = base;
        arguments.insert(arguments.end(), more.begin(), more.end());
        return run_program(arguments);
    };
    const Outcome shown = with({});
    const Outcome hidden = with({"--no-display-prompt"});
    EXPECT_EQ(shown.status, 0) << shown.err;
    EXPECT_TRUE(shown.out.starts_with("the\tend")) << shown.out;
    EXPECT_EQ(shown.out, "the\tend" + hidden.out);
    EXPECT_TRUE(with({"--no-escape"}).out.starts_with("the\\tend"));
}

TEST_F(Commands, LogitsOfThePrompt) {
    const Files& files = Files::shared();
    const Outcome ids = run_program({"tokenize", "-m", files.tiny(), "-p", "the other one", "--ids"});
    for (const std::string chunk : {"0", "1", "7"}) {
        const Outcome outcome =
            run_program({"generate", "-m", files.tiny(), "-p", "the other one", "-n", "0", "-no-cnv", "-ub", chunk,
                         "--logits-out", files.path("logits" + chunk + ".npy")});
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        EXPECT_EQ(outcome.out, "");
    }
    const Matrix whole = read_npy(files.read("logits0.npy"));
    EXPECT_EQ(whole.n_rows, count_words(ids.out));
    EXPECT_EQ(whole.n_columns, 320u);
    for (const char* name : {"logits1.npy", "logits7.npy"}) {
        const Matrix chunked = read_npy(files.read(name));
        ASSERT_EQ(chunked.values.size(), whole.values.size());
        double most = 0;
        for (std::size_t i = 0; i < whole.values.size(); ++i) {
            ASSERT_TRUE(std::isfinite(whole.values[i])) << i;
            most =
                std::max(most, std::abs(static_cast<double>(chunked.values[i]) - static_cast<double>(whole.values[i])));
        }
        EXPECT_LT(most, 1e-2) << name;  // f16 activations of the prefill; tests/decode has the sharp bound
    }
}

TEST_F(Commands, LogitsAndTextInOneRun) {
    const Files& files = Files::shared();
    for (const std::string& model : {files.tiny(), files.tiny_gemma()}) {
        std::vector<std::string> arguments = {"generate", "-m", model,    "-p", "the other one in the end",
                                              "-n",       "8",  "--temp", "0",  "--json"};
        const json plain = run_json(arguments);
        arguments.insert(arguments.end(), {"--logits-out", files.path("both.npy")});
        const json both = run_json(arguments);
        ASSERT_TRUE(plain.is_object() && both.is_object());
        EXPECT_EQ(plain["tokens"], both["tokens"]) << model;
        const Matrix logits = read_npy(files.read("both.npy"));
        EXPECT_EQ(logits.n_rows, both["prompt_tokens"].get<std::size_t>());
        const auto last = logits.values.end() - static_cast<std::ptrdiff_t>(logits.n_columns);
        EXPECT_EQ(std::max_element(last, logits.values.end()) - last, both["tokens"][0].get<std::ptrdiff_t>()) << model;
    }
}

TEST_F(Commands, PerplexityMatchesItsOwnLogits) {
    const Files& files = Files::shared();
    std::string text;
    for (int i = 0; i < 40; ++i) text += "the other one and another line in the end\n";
    files.write("long.txt", text);
    const std::vector<std::string> base = {"perplexity", "-m", files.tiny(), "-f", files.path("long.txt"),
                                           "-c",         "32", "--windows",  "3"};
    const Outcome plain = run_program(base);
    EXPECT_EQ(plain.status, 0) << plain.err;
    EXPECT_TRUE(plain.out.starts_with("[1]")) << plain.out;
    EXPECT_NE(plain.out.find(",[3]"), std::string::npos) << plain.out;
    EXPECT_NE(plain.out.find("\nFinal estimate: PPL = "), std::string::npos) << plain.out;

    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), {"--json", "--logits-out", files.path("ppl.npy")});
    const json result = run_json(arguments);
    EXPECT_EQ(result["n_windows"], 3);
    EXPECT_EQ(result["n_scored"], 48);
    const Matrix logits = read_npy(files.read("ppl.npy"));
    ASSERT_EQ(logits.n_rows, 96u);

    std::vector<int> ids;
    std::istringstream stream(run_program({"tokenize", "-m", files.tiny(), "-f", files.path("long.txt"), "--ids"}).out);
    for (int id; stream >> id;) ids.push_back(id);
    double sum = 0;
    for (std::size_t i = 0; i < 96; ++i) {
        if (i % 32 < 16) continue;
        const float* row = logits.values.data() + (i - 1) * logits.n_columns;
        double total = 0;
        for (std::size_t j = 0; j < logits.n_columns; ++j) total += std::exp(static_cast<double>(row[j]));
        sum += std::log(total) - static_cast<double>(row[ids[i]]);
    }
    EXPECT_NEAR(result["ppl"].get<double>(), std::exp(sum / 48), 1e-6 * std::exp(sum / 48));
}

TEST_F(Commands, InfoNamesTheMemory) {
    for (const std::string& model : {Files::shared().tiny(), Files::shared().tiny_gemma()}) {
        const json info = run_json({"info", "-m", model, "-c", "128", "--json"});
        ASSERT_TRUE(info.is_object());
        EXPECT_EQ(info["n_ctx"], 128);
        EXPECT_EQ(info["total_bytes"].get<std::uint64_t>(),
                  info["weight_bytes"].get<std::uint64_t>() + info["kv_bytes"].get<std::uint64_t>() +
                      info["index_bytes"].get<std::uint64_t>() + info["scratch_bytes"].get<std::uint64_t>());
        EXPECT_GT(info["kv_bytes"], 0);
        EXPECT_LE(info["n_dependent_dispatches"], 8 * 2 + 8);
        EXPECT_NE(run_program({"info", "-m", model}).out.find("dependent dispatches"), std::string::npos);
    }
}

std::optional<std::string> real_model(const char* name) {
    const char* folder = std::getenv("WINNOW_TEST_MODELS");
    if (folder == nullptr) return std::nullopt;
    const std::string path = std::string(folder) + "/" + name;
    if (!std::filesystem::exists(path)) return std::nullopt;
    return path;
}

TEST_F(Commands, SmolLM2Answers) {
    const std::optional<std::string> model = real_model("SmolLM2-135M-Instruct.Q4_1.gguf");
    if (!model) GTEST_SKIP() << "WINNOW_TEST_MODELS has no SmolLM2-135M-Instruct.Q4_1.gguf";
    const std::vector<std::string> base = {"-m", *model, "-p", "What is the capital of France?",
                                           "-n", "24",   "-c", "256"};
    std::vector<std::string> greedy = base;
    greedy.insert(greedy.end(), {"--temp", "0"});
    const Outcome answer = run_program(greedy);
    EXPECT_EQ(answer.status, 0) << answer.err;
    EXPECT_NE(answer.out.find("Paris"), std::string::npos) << answer.out;
    std::vector<std::string> seeded = base;
    seeded.insert(seeded.end(), {"-s", "3"});
    EXPECT_EQ(run_program(seeded).out, run_program(seeded).out);
}

}  // namespace
}  // namespace winnow::test
