// SPDX-License-Identifier: Apache-2.0
// `winnow eval` on tiny models: what it compares must be the same tokens after the same cache.
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class Eval : public OnDevice {
protected:
    static std::string model(const std::string& name, const std::string& architecture, std::uint32_t n_ctx) {
        TinyOptions options;
        options.architecture = architecture;
        options.n_ctx = n_ctx;
        const std::vector<std::byte> bytes = make_tiny_gguf(options);
        return Files::shared().write(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    static std::string text() {
        std::string words;
        for (int i = 0; i < 800; ++i) words += "the " + std::to_string(i * 7919 % 1000) + " rivers ";
        return Files::shared().write("eval_text.txt", words);
    }
    static Outcome run(const std::string& path, std::vector<std::string> more) {
        more.insert(more.begin(), {"eval", "-m", path, "-f", text(), "-lv", "3"});  // says something now and then
        return run_program(more);
    }
    static json rows(const std::string& path, std::vector<std::string> more) {
        more.insert(more.end(), {"--json", Files::shared().path("eval_rows.json")});
        const Outcome outcome = run(path, more);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return json::parse(Files::shared().read("eval_rows.json"), nullptr, false);
    }
};

// 120 positions are more than the rings of 16 tokens hold: to go back, the prompt has to be prefilled again.
TEST_F(Eval, DenseAgainstItselfIsNothingWithWindowedLayers) {
    const json list = rows(model("eval_gemma.gguf", "gemma3", 1024), {"--positions", "120", "-c", "960", "--presets", "dense"});
    ASSERT_EQ(list.size(), 1u);
    for (const char* key : {"nll_delta", "kl_mean", "kl_p99", "needle_nll_delta", "aggregate_nll_delta"})
        EXPECT_EQ(list[0][key].get<double>(), 0) << key;
    EXPECT_EQ(list[0]["top1_agree"], 1.0);
    EXPECT_EQ(list[0]["repeat_ppl"], list[0]["dense_repeat_ppl"]);
}

}  // namespace
}  // namespace winnow::test
