// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/chat.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "examples/winnow/commands.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/line_input.h"
#include "examples/winnow/sampling.h"
#include "examples/winnow/terminal.h"

namespace winnow::program {
namespace {

constexpr const char* kPrompt = "> ";
constexpr const char* kContinuation = "  ";

// Spaces at the ends of an answer are no part of it: templates trim them, so keeping them would
// only make the next prompt differ from what is cached.
std::string trimmed(const std::string& text) {
    const std::size_t begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string::npos) return "";
    return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

}  // namespace

Chat::Chat(const Options& options)
    : options_(options),
      vocabulary_(open_vocabulary(options)),
      template_(open_chat_template(options, vocabulary_)),
      cache_(options.prompt_cache),
      n_predict_(options.n_predict),
      stop_strings_(reverse_prompts(options)) {
    conversation_.system = system_text(options);
    warn_of_missing_bytes(*vocabulary_.tokenizer, conversation_.system.value_or(""));
    for (const std::string& stop : template_.stop_strings()) stop_strings_.push_back(stop);
    session_ = open_session(options, vocabulary_, context_size(options, 0));
    sampling_ = resolve_sampling(options.sampling, vocabulary_.file, session_->n_ctx());
    warm_up(*session_, options, sampling_);
}

void Chat::greet() const {
    write_err(dim_err(fmt::format("{} on {} | context {} | template {} | /help", vocabulary_.path.filename().string(),
                                  session_->device().name, session_->n_ctx(), template_.name())) +
              "\n");
}

std::vector<TokenId> Chat::tokens() const {
    const std::string text = template_.render(conversation_.messages(template_), true);
    return vocabulary_.tokenizer->encode(text);
}

FinishReason Chat::ask(const std::string& question) {
    const std::string message = wrapped_input(options_, question);
    const std::string content = attached_.empty() ? message : attached_ + "\n\n" + message;
    warn_of_missing_bytes(*vocabulary_.tokenizer, content);
    conversation_.turns.push_back({"user", content});
    try {
        const FinishReason reason = answer_last();
        // The text stays attached when the question did not go through.
        if (conversation_.turns.back().role == "assistant") attached_.clear();
        else conversation_.turns.pop_back();
        return reason;
    } catch (...) {
        conversation_.turns.pop_back();
        throw;
    }
}

// Answers the conversation's last turn, which is the user's, and adds the answer to it.
FinishReason Chat::answer_last() {
    AnswerRequest request;
    request.prompt = tokens();
    if (request.prompt.size() > session_->n_ctx()) {
        throw Error(
            ErrorCode::kInvalidArgument,
            fmt::format("the conversation has {} tokens but the context holds {}: {}", request.prompt.size(),
                        session_->n_ctx(),
                        conversation_.turns.size() == 1 ? "give a shorter message, or start with a larger -c"
                                                        : "/clear it, /undo the last turn, or start with a larger -c"));
    }
    request.sampling = sampling_;
    request.stop_strings = stop_strings_;
    request.n_predict = n_predict_;
    cache_.restore(*session_, request.prompt);
    if (!options_.prompt_cache.empty() && !cache_has_prompt_) {
        request.on_prompt_read = [this] {
            cache_has_prompt_ = true;
            cache_.save(*session_);
        };
    }
    const Answer result =
        answer(*session_, *vocabulary_.tokenizer, request, [](std::string_view text) { write_out(printable(text)); });
    if (result.text.empty() || result.text.back() != '\n') write_out("\n");
    // Interrupted while the question was read: there is no answer to keep.
    const bool answered = result.finish_reason != FinishReason::kInterrupted || !result.tokens.empty();
    if (answered) {
        conversation_.turns.push_back({"assistant", trimmed(result.text)});
        report(result);
    } else {
        write_err(dim_err("[ interrupted before an answer: the question is taken back ]") + "\n");
    }
    return result.finish_reason;
}

void Chat::report(const Answer& answer) {
    totals_.n_read += answer.n_read;
    totals_.n_prompt += answer.stats.n_prompt;
    totals_.n_reused += answer.n_reused;
    totals_.prompt_seconds += answer.stats.prompt_seconds;
    totals_.n_generated += answer.stats.n_generated;
    totals_.generate_seconds += answer.stats.generate_seconds;
    if (options_.show_timings.value_or(true)) write_err(dim_err(describe_stats(answer, *session_)) + "\n");
    if (options_.sparse_report) write_err(describe_sparse(*session_));
    if (answer.finish_reason == FinishReason::kContextFull) {
        log_warning(
            fmt::format("the context of {} tokens is full: the answer is cut; /clear, or start "
                        "with a larger -c",
                        session_->n_ctx()));
    }
}

namespace {

// What the user says next, with a prompt when somebody is there to see it.
class Questions {
public:
    explicit Questions(const Options& options)
        : interactive_(stdin_is_terminal() || options.simple_io),
          multiline_(options.multiline_input),
          input_(
              {kPrompt, kContinuation}, [this](const std::string& prompt) { show(prompt); }, editor(options)) {}

    /// nullopt at the end of input. @throws Interrupted on Ctrl-C.
    std::optional<LineInput::Message> next() {
        clear_interrupt();
        show(input_prompt(""));
        try {
            std::optional<LineInput::Message> message = input_.read_message(multiline_);
            show(message ? input_end() : input_end() + "\n");
            return message;
        } catch (const Interrupted&) {
            show(input_end() + "\n");
            throw;
        }
    }

private:
    // Where somebody types at a terminal that knows how to move its cursor.
    static std::unique_ptr<LineEditor> editor(const Options& options) {
        const char* terminal = std::getenv("TERM");
        const bool capable = terminal != nullptr && *terminal != '\0' && std::string_view(terminal) != "dumb";
        if (!stdin_is_terminal() || !stdout_is_terminal() || !capable || options.simple_io) return nullptr;
        return std::make_unique<LineEditor>(history_path());
    }

    void show(const std::string& text) const {
        if (interactive_) write_out(text);
    }

    bool interactive_;
    bool multiline_;
    LineInput input_;
};

int converse(Chat& chat, const Options& options) {
    Questions questions(options);
    while (const std::optional<LineInput::Message> message = questions.next()) {
        try {
            if (message->is_command) {
                if (!chat.run_command(message->text)) return 0;
                continue;
            }
            if (trimmed(message->text).empty()) continue;
            chat.ask(message->text);
        } catch (const OutputError&) {
            throw;
        } catch (const Error& error) {
            // The user can do something about these; a lost device or a bug ends the chat.
            if (error.code() != ErrorCode::kInvalidArgument && error.code() != ErrorCode::kIo) throw;
            if (options.single_turn && !message->is_command) throw;
            log_error(error.what());
            continue;
        }
        if (options.single_turn) return 0;
    }
    return 0;
}

// From the first prompt to the end. `once`: one answer only.
int hold(Chat& chat, const Options& options, const std::optional<std::string>& prompt, bool once) {
    if (prompt) {
        const FinishReason reason = chat.ask(*prompt);
        if (once) {
            if (reason == FinishReason::kInterrupted) throw Interrupted{};
            return 0;
        }
    }
    return converse(chat, options);
}

}  // namespace

int run_chat(const Options& options) {
    if (options.conversation == false) {
        throw Error(ErrorCode::kInvalidArgument, "-no-cnv: a chat needs the chat template; use winnow generate");
    }
    const std::optional<std::string> prompt = prompt_text(options);
    if (prompt) check_not_blank(*prompt);
    // `winnow -m M -p ...` answers once; `winnow chat -p ...` goes on.
    const bool once = prompt && (options.single_turn || (!options.has_command && options.conversation != true));
    Chat chat(options);
    if (!once && (stdin_is_terminal() || options.simple_io)) chat.greet();
    try {
        const int status = hold(chat, options, prompt, once);
        chat.save_cache();
        return status;
    } catch (const Interrupted&) {  // Ctrl-C is a usual way to leave
        chat.save_cache();
        throw;
    }
}

}  // namespace winnow::program
