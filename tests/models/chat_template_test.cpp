// SPDX-License-Identifier: Apache-2.0
// Conversations as Jinja2 renders them with the models' templates; see make_chat_golden.py.
#include "models/chat_template.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/gguf.h"
#include "models/gguf_writer.h"
#include "models/tokenizer.h"
#include "winnow/error.h"

namespace winnow::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using Messages = std::vector<ChatMessage>;

/// The template that a file with this text (none if empty) and these tokens (EOS first) gets.
ChatTemplate recognised(const std::string& text, const std::vector<std::string>& tokens = {"</s>"}) {
    GgufWriter writer;
    writer.add_string("general.architecture", "llama");
    writer.add_strings("tokenizer.ggml.tokens", tokens);
    writer.add_uint("tokenizer.ggml.eos_token_id", 0);
    if (!text.empty()) writer.add_string("tokenizer.chat_template", text);
    static std::atomic<int> n_files{0};
    const auto path =
        std::filesystem::temp_directory_path() / fmt::format("winnow_chat_{}_{}.gguf", getpid(), n_files++);
    writer.write(path);
    struct Remove {
        std::filesystem::path path;
        ~Remove() { std::filesystem::remove(path); }
    } remove{path};
    return ChatTemplate::from_gguf(GgufFile::open(path));
}

// As the program does it: the model's own system prompt where the caller has none.
Messages with_default_system(const ChatTemplate& chat, Messages messages) {
    if (messages[0].role != "system" && !chat.default_system().empty()) {
        messages.insert(messages.begin(), {"system", chat.default_system()});
    }
    return messages;
}

json read_golden() {
    std::ifstream in(std::filesystem::path(WINNOW_TEST_DATA) / "golden" / "chat_templates.json");
    return json::parse(in);
}

TEST(ChatTemplate, RendersLikeJinja) {
    const json golden = read_golden();
    int n_compared = 0;
    for (const json& c : golden["cases"]) {
        SCOPED_TRACE(c["name"].get<std::string>());
        const ChatTemplate chat = recognised(c["template"], {c["eos"].get<std::string>()});
        EXPECT_EQ(chat.is_fallback(), c["family"] == "");
        if (chat.is_fallback()) continue;
        EXPECT_EQ(chat.name(), c["family"].get<std::string>());
        for (const bool open : {true, false}) {
            const json expected = c.value(open ? "open" : "closed", json::array());
            for (std::size_t i = 0; i < expected.size(); ++i) {
                if (expected[i].is_null()) continue;  // the template refuses such a conversation
                SCOPED_TRACE(fmt::format("conversation {}, open {}", i, open));
                Messages messages;
                for (const json& m : golden["conversations"][i]) {
                    messages.push_back({m["role"], m["content"]});
                }
                EXPECT_EQ(chat.render(with_default_system(chat, messages), open), expected[i].get<std::string>());
                ++n_compared;
            }
        }
    }
    EXPECT_GT(n_compared, 200);
}

TEST(ChatTemplate, FindsTheSystemPromptThatTheTemplateInserts) {
    std::map<std::string, std::string> found;
    const json golden = read_golden();
    for (const json& c : golden["cases"]) {
        const ChatTemplate chat = recognised(c["template"], {c["eos"].get<std::string>()});
        if (!chat.default_system().empty()) found[c["name"]] = chat.default_system();
    }
    const std::map<std::string, std::string> expected{
        {"SmolLM2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
        {"Qwen2", "You are a helpful assistant."},
        {"Qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
        {"chatml, system in a variable", "You're a \"helpful\" assistant.\nBe brief."},
        {"chatml, system as plain text", "You're \"Plain\", a bot."},
        {"Llama 3.2", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"},
    };
    EXPECT_EQ(found, expected);
}

TEST(ChatTemplate, SurvivesBrokenTemplates) {
    for (const char* text :
         {"<|im_start|>system", "'<|im_start|>system\\n", "'<|im_start|>system\\n' +", "'<|im_start|>system\\n' + x",
          "'<|im_start|>system\\n' + x {% set x = ", "'<|im_start|>system\\n' + x {% set x = '",
          "<|im_start|>system\n\\", "'<|im_start|>system\\n<|im_end|>", "<|im_start|>system\n{{ a }}<|im_end|>",
          "'<|im_start|>system\\n' + messages[0] {% set messages = messages[1:] %}",
          "'<|im_start|>system\\n' + {% set = 'x' %}"}) {
        const ChatTemplate chat = recognised(text);
        EXPECT_EQ(chat.name(), "chatml") << text;
        EXPECT_EQ(chat.default_system(), "") << text;
    }
    EXPECT_TRUE(recognised("{{ messages }}").is_fallback());
    EXPECT_EQ(recognised("<|start_header_id|><|eot_id|>Cutting Knowledge Date: ").default_system(), "");
}

TEST(ChatTemplate, GuessesFromTheVocabularyAndSaysSo) {
    for (const auto& [token, name] : {std::pair{"<start_of_turn>", "gemma"}, std::pair{"<|start_header_id|>", "llama3"},
                                      std::pair{"<|im_start|>", "chatml"}, std::pair{"x", "chatml"}}) {
        const ChatTemplate chat = recognised("", {"</s>", token});
        EXPECT_EQ(chat.name(), name);
        EXPECT_TRUE(chat.is_fallback());
    }
    const ChatTemplate unknown = recognised("{{ 'other' }}", {"</s>", "<start_of_turn>"});
    EXPECT_EQ(unknown.name(), "chatml") << "there is a template, and it is not Gemma's";
    EXPECT_TRUE(unknown.is_fallback());
}

TEST(ChatTemplate, IsMadeByName) {
    const Messages messages{{"system", "S"}, {"user", "U"}, {"assistant", "A"}, {"user", "V"}};
    for (const std::string_view name : ChatTemplate::names()) {
        const ChatTemplate chat = ChatTemplate::named(name);
        EXPECT_EQ(chat.name(), name);
        EXPECT_FALSE(chat.is_fallback());
        EXPECT_EQ(chat.default_system(), "");
        const std::string text = chat.render(messages, true);
        for (const char* content : {"S", "U", "A", "V"}) EXPECT_THAT(text, HasSubstr(content));
        EXPECT_TRUE(text.starts_with(chat.render({messages[0]}, false))) << name;
        EXPECT_EQ(chat.render({}, false), "");
    }
    for (const std::string_view family : {"chatml", "llama3", "gemma", "mistral", "phi3", "zephyr"}) {
        EXPECT_THAT(ChatTemplate::names(), ::testing::Contains(family));
    }
    EXPECT_EQ(ChatTemplate::named("gemma").stop_strings(), std::vector<std::string>{"<end_of_turn>"});
    EXPECT_TRUE(ChatTemplate::named("mistral").stop_strings().empty());
    try {
        ChatTemplate::named("vicuna");
        ADD_FAILURE() << "made";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
        EXPECT_THAT(e.what(), HasSubstr("'vicuna'; known are chatml, llama3, gemma, mistral"));
    }
}

TEST(ChatTemplate, DoesNotRepeatThePreambleThatWasAskedFor) {
    const json golden = read_golden();
    const auto c = std::find_if(golden["cases"].begin(), golden["cases"].end(),
                                [](const json& one) { return one["name"] == "Llama 3.2"; });
    const ChatTemplate chat = recognised((*c)["template"]);
    const Messages question{{"user", "Hi"}};
    const std::string text = chat.render(question, true);
    EXPECT_EQ(chat.render(with_default_system(chat, question), true), text);
    EXPECT_EQ(text.find("Cutting"), text.rfind("Cutting"));
}

// The tokenizer adds BOS, the templates print it: there must be one.
TEST(ChatTemplate, LeavesBosToTheTokenizer) {
    const char* folder = std::getenv("WINNOW_TEST_MODELS");
    if (!folder) GTEST_SKIP() << "WINNOW_TEST_MODELS is not set";
    const auto path = std::filesystem::path(folder) / "gemma-3-270m-q4_k_m.gguf";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
    const GgufFile file = GgufFile::open(path);
    const auto tokenizer = Tokenizer::from_gguf(file);
    const ChatTemplate chat = ChatTemplate::from_gguf(file);
    EXPECT_EQ(chat.name(), "gemma");
    const auto ids = tokenizer->encode(chat.render({{"user", "Hi"}}, true));
    EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer->bos()), 1);
    ASSERT_GT(ids.size(), 2u);
    EXPECT_EQ(ids[0], tokenizer->bos());
    EXPECT_EQ(tokenizer->raw_token(ids[1]), "<start_of_turn>") << "parsed as one token";
}

}  // namespace
}  // namespace winnow::test
