// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "examples/winnow/answer.h"
#include "examples/winnow/commands.h"
#include "examples/winnow/conversation.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/file_io.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/progress.h"
#include "examples/winnow/prompt_cache.h"
#include "examples/winnow/sampling.h"
#include "examples/winnow/terminal.h"

namespace winnow::program {
namespace {

struct Prompt {
    std::string text;
    std::vector<TokenId> tokens;
    std::vector<std::string> stop_strings;
    bool is_chat = false;
};

Prompt make_prompt(const Options& options, const Vocabulary& vocabulary) {
    const std::optional<std::string> text = prompt_text(options);
    if (!text)
        throw Error(ErrorCode::kInvalidArgument, "no prompt: give one with -p TEXT or -f FILE (- = standard input)");
    Prompt prompt;
    prompt.stop_strings = reverse_prompts(options);
    // Without a subcommand this is reached for --json or --logits-out too, and there the chat is
    // the default.
    prompt.is_chat = options.conversation.value_or(!options.has_command);
    prompt.text = *text;
    if (prompt.is_chat) {
        check_not_blank(*text);
        const ChatTemplate chat_template = open_chat_template(options, vocabulary);
        Conversation conversation;
        conversation.system = system_text(options);
        conversation.turns.push_back({"user", wrapped_input(options, *text)});
        prompt.text = chat_template.render(conversation.messages(chat_template), true);
        for (const std::string& stop : chat_template.stop_strings()) prompt.stop_strings.push_back(stop);
    } else if (!options.input_prefix.empty() || !options.input_suffix.empty()) {
        throw Error(ErrorCode::kInvalidArgument, "--in-prefix and --in-suffix need the chat template: add -cnv");
    } else if (options.system_prompt || !options.system_file.empty()) {
        throw Error(ErrorCode::kInvalidArgument, "a system prompt needs the chat template: add -cnv");
    }
    warn_of_missing_bytes(*vocabulary.tokenizer, prompt.text);
    prompt.tokens = vocabulary.tokenizer->encode(prompt.text);
    return prompt;
}

void write_logits(Session& session, const std::vector<TokenId>& tokens, NpyFile& file) {
    Progress progress("reading the prompt", Progress::Unit::kTokens);
    file.begin(tokens.size(), session.shape().n_vocab);
    session.evaluate(
        tokens,
        [&file](std::uint32_t, std::span<const float> logits) {
            throw_if_interrupted();
            file.append(logits);
        },
        [&progress](std::uint32_t done, std::uint32_t total) {
            progress.update(done, total);
            return !interrupted();
        });
    throw_if_interrupted();
    file.commit();
}

std::string as_json(const Prompt& prompt, const Answer& answer, std::uint64_t seed) {
    const SessionStats& stats = answer.stats;
    const nlohmann::json root = {{"prompt_tokens", prompt.tokens.size()},
                                 {"tokens", answer.tokens},
                                 {"text", answer.text},
                                 {"finish_reason", finish_name(answer.finish_reason)},
                                 {"seed", seed},
                                 {"timings",
                                  {{"cache_n", answer.n_reused},
                                   {"prompt_n", answer.n_read},
                                   {"prompt_ms", 1e3 * stats.prompt_seconds},
                                   {"prompt_per_second", per_second(stats.n_prompt, stats.prompt_seconds)},
                                   {"predicted_n", stats.n_generated},
                                   {"predicted_ms", 1e3 * stats.generate_seconds},
                                   {"predicted_per_second", per_second(stats.n_generated, stats.generate_seconds)}}}};
    return root.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void explain_end(const Answer& answer, const Session& session) {
    if (answer.finish_reason != FinishReason::kContextFull) return;
    log_warning(fmt::format("the context of {} tokens is full: the text is cut; raise -c", session.n_ctx()));
}

}  // namespace

int run_generate(const Options& options) {
    // The cache keeps keys and values of tokens, not their logits: these would be missing of all that it has.
    if (!options.logits_out.empty() && !options.prompt_cache.empty())
        throw Error(ErrorCode::kInvalidArgument, "--logits-out needs the whole prompt read: leave out --prompt-cache");
    // Before the model is loaded: a file that cannot be written should not cost a minute.
    std::unique_ptr<NpyFile> logits;
    if (!options.logits_out.empty()) logits = std::make_unique<NpyFile>(options.logits_out);
    PromptCache cache(options.prompt_cache);

    const Vocabulary vocabulary = open_vocabulary(options);
    const Prompt prompt = make_prompt(options, vocabulary);
    const std::unique_ptr<Session> session = open_session(options, vocabulary, context_size(options, 0));
    check_fits(*session, prompt.tokens.size());
    const SamplingOptions sampling = resolve_sampling(options.sampling, vocabulary.file, session->n_ctx());
    warm_up(*session, options, sampling);
    if (logits) write_logits(*session, prompt.tokens, *logits);
    else cache.restore(*session, prompt.tokens);

    AnswerRequest request;
    request.prompt = prompt.tokens;
    request.sampling = sampling;
    request.stop_strings = prompt.stop_strings;
    request.n_predict = options.n_predict;
    if (!options.prompt_cache.empty()) request.on_prompt_read = [&] { cache.save(*session); };

    // With nothing to generate, `logits` has evaluated the prompt already.
    Answer result;
    result.finish_reason = FinishReason::kLength;
    result.stats = session->stats();
    result.n_read = result.stats.n_prompt;
    if (options.n_predict != 0 || !logits) {
        // Once it is read: a bar or a warning would come into the middle of its line.
        bool echoes = !prompt.is_chat && options.display_prompt;
        const auto print = [&](std::string_view text) {
            if (options.json || options.n_predict == 0) return;
            if (std::exchange(echoes, false)) write_out(printable(prompt.text));
            write_out(printable(text));
        };
        result = answer(*session, *vocabulary.tokenizer, request, print);
        print("\n");
    }
    if (options.json) write_out(as_json(prompt, result, request.sampling.seed));
    if (options.show_timings.value_or(stderr_is_terminal())) {
        write_err(dim_err(describe_stats(result, *session)) + "\n");
    }
    if (options.sparse_report) write_err(describe_sparse(*session));
    explain_end(result, *session);
    if (result.finish_reason == FinishReason::kInterrupted) throw Interrupted{};
    return 0;
}

}  // namespace winnow::program
