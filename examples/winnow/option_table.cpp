// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/option_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

#include "examples/winnow/split.h"
#include "models/chat_template.h"
#include "winnow/session.h"
#include "winnow/version.h"

namespace winnow::program {
namespace {

// Registered as --x, shown as -x.
constexpr std::array<std::string_view, 15> kSingleDash = {"sys", "sysf",   "ub", "ngl", "dev", "fa", "ctk", "ctv",
                                                          "cnv", "no-cnv", "st", "mli", "lv",  "pg", "oe"};

constexpr double kMostCount = 2147483647;

// CLI11 breaks no lines, and shows the checks of a value after its type: here the description names the limits.
class HelpFormatter : public CLI::Formatter {
public:
    std::string make_option(const CLI::Option* option, bool) const override {
        std::string text = fmt::format("  {}", fmt::join(shown_names(*option), ", "));
        if (option->get_items_expected_max() > 0) text += " " + value_type(*option);
        if (text.size() >= kColumn) text += "\n" + std::string(kColumn, ' ');
        else text.resize(kColumn, ' ');
        std::size_t at = kColumn;
        for (const std::string& word : split(make_option_desc(option), ' ')) {
            if (at != kColumn && at + 1 + word.size() > kWidth) {
                text += "\n" + std::string(kColumn, ' ');
                at = kColumn;
            }
            text += (at == kColumn ? "" : " ") + word;
            at += (at == kColumn ? 0 : 1) + word.size();
        }
        return text + "\n";
    }

    std::string make_usage(const CLI::App* app, std::string) const override {
        return "Usage: winnow " + (app->get_name().empty() ? "[COMMAND]" : app->get_name()) + " -m MODEL [OPTIONS]\n";
    }

private:
    static constexpr std::size_t kColumn = 38, kWidth = 100;
};

// CLI11's own Range says "Value x not in range 0.000000 to ...".
enum class Least { kIncluded, kExcluded };
CLI::Validator between(double least, double most, Least end_of_range = Least::kIncluded) {
    const bool is_open = end_of_range == Least::kExcluded;
    const auto check = [least, most, is_open](std::string& text) -> std::string {
        double value = 0;
        const char* end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, value);
        if (error == std::errc{} && stop == end && value >= least && value <= most && !(is_open && value == least))
            return "";
        return fmt::format("'{}' is no number {} {:.12g} {} {:.12g}", text, is_open ? "above" : "from", least,
                           is_open ? "and up to" : "to", most);
    };
    return CLI::Validator(check, "", "between");
}

// Each flag with a long name has a twin in the environment, named after the first one.
void add_environment_twin(CLI::Option& option) {
    for (const std::string& name : option.get_lnames()) {
        if (std::find(kSingleDash.begin(), kSingleDash.end(), name) != kSingleDash.end()) continue;
        std::string variable = "WINNOW_";
        for (const char c : name) {
            variable += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
        }
        option.envname(variable);
        return;
    }
}

class Table {
public:
    explicit Table(CLI::App& app) : app_(app) {}

    template <class T>
    CLI::Option* value(const char* names, T& target, const char* type, const char* help) {
        CLI::Option* option = app_.add_option(names, target, help);
        option->type_name(type)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
        add_environment_twin(*option);
        return option;
    }

    CLI::Option* list(const char* names, std::vector<std::string>& target, const char* type, const char* help) {
        CLI::Option* option = app_.add_option(names, target, help);
        option->type_name(type)->type_size(1)->allow_extra_args(false);
        add_environment_twin(*option);
        return option;
    }

    /// A value that `parse` takes; it returns what is wrong with it, or "".
    void parsed(const char* names, const char* type, const char* help,
                std::function<std::string(const std::string&)> parse) {
        const auto take = [parse = std::move(parse)](const std::string& text) {
            if (const std::string problem = parse(text); !problem.empty()) throw CLI::ValidationError(problem);
        };
        CLI::Option* option = app_.add_option_function<std::string>(names, take, help);
        option->type_name(type)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
        add_environment_twin(*option);
    }

    template <class T, class Value>
    void set(const char* names, T& target, Value when_given, const char* help) {
        const auto assign = [&target, when_given] { target = when_given; };
        add_environment_twin(*app_.add_flag_callback(names, assign, help));
    }

private:
    CLI::App& app_;
};

void add_common(Table& table, Options& o) {
    table.value("-m,--model", o.model, "FILE",
                "model in GGUF: a path, or the name, or its beginning, of one in a model directory");
    table.value("--dev,--device", o.device, "D", "device by index, UUID or part of its name (default: best)");
    table.set("--list-devices", o.list_devices, true, "print the Vulkan devices and exit");
    table.value("--color", o.color, "WHEN", "on, off or auto (default)")->check(CLI::IsMember({"on", "off", "auto"}));
    table
        .value("--lv,--verbosity,--log-verbosity", o.verbosity, "N",
               "0 output only, 1 errors, 2 warnings (default), 3 information, 4 debug")
        ->check(between(0, 4));
    table.set("-v,--verbose", o.verbosity, 4, "the same as -lv 4");
    table.set("--log-disable", o.verbosity, 0, "the same as -lv 0");
    table.value("--log-file", o.log_file, "FILE", "also write what is logged, information included, to this file");
    table.set("--log-jsonl", o.log_jsonl, true, "log lines as JSON objects: time, level, message");
    table
        .value("--log-colors", o.log_colors, "WHEN",
               "colours of log lines: on, off or auto (default: as --color for a terminal)")
        ->check(CLI::IsMember({"on", "off", "auto"}));
    table.set("--completion-bash", o.completion, "bash", "print a script that completes flags in bash");
    table.set("--completion-zsh", o.completion, "zsh", "the same for zsh");
    table.set("--completion-fish", o.completion, "fish", "the same for fish");
}

constexpr const char* kContextHelp = "context in tokens; 0 = what the model was trained for, or what fits (default)";

// @param context_help of -c; null: the command has none.
void add_session(Table& table, Options& o, const char* context_help) {
    if (context_help != nullptr)
        table.value("-c,--ctx-size", o.n_ctx, "N", context_help)->check(between(0, kMostCount));
    table
        .value("--ub,--ubatch-size", o.n_chunk, "N",
               "most tokens of a prefill chunk (default: 1024 on a card of 20 GiB or more, 512 on a smaller one, 64 "
               "on a software driver)")
        ->check(between(0, 1 << 20));
    table.value("-b,--batch-size", o.n_batch, "N", "accepted; -ub decides how a prompt is cut")
        ->check(between(0, kMostCount));
    table.value("-t,--threads", o.n_threads, "N", "accepted; the work is on the device")
        ->check(between(-1, kMostCount));
    table.value("--ngl,--gpu-layers,--n-gpu-layers", o.gpu_layers, "N",
                "all (default), auto, or at least the number of layers");
    table.value("--fa,--flash-attn", o.flash_attention, "WHEN", "accepted with a note; attention is always fused")
        ->check(CLI::IsMember({"on", "off", "auto", "1", "0"}));
    table.value("--ctk,--cache-type-k", o.cache_type_k, "TYPE", "storage of keys: f16 (default), f32, q8_0, q4_0");
    table.value("--ctv,--cache-type-v", o.cache_type_v, "TYPE", "storage of values, the same type as -ctk (default)");
}

enum class Escapes { kNever, kIfAsked, kUnlessTold };

void add_prompt(Table& table, Options& o, Escapes escapes) {
    table.value("-p,--prompt", o.prompt, "TEXT", "the text");
    table.value("-f,--file", o.prompt_file, "FILE", "read the text from a file; - = standard input");
    if (escapes == Escapes::kNever) return;
    const bool is_default = escapes == Escapes::kUnlessTold;
    table.set("-e,--escape", o.escapes, true,
              is_default ? "resolve \\n and the like in -p, -sys, -r, --in-prefix and --in-suffix (default)"
                         : "resolve \\n and the like in -p, as chat and generate do");
    table.set("--no-escape", o.escapes, false,
              is_default ? "take backslashes as they are" : "take backslashes as they are (default)");
}

void add_answer(Table& table, Options& o) {
    table
        .value("-n,--predict,--n-predict", o.n_predict, "N",
               "most tokens to generate; -1 = until the model ends its text or the context is full (default)")
        ->check(between(-2, kMostCount));
    table.value("-r,--reverse-prompt", o.reverse_prompts, "TEXT", "stop before this text; may be repeated")
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->type_size(1)
        ->allow_extra_args(false);
    table.value(
        "--prompt-cache", o.prompt_cache, "FILE",
        "take from this file what it has of the prompt in place of reading it; then save the prompt in it, in a "
        "chat the conversation");
    table.value("--sys,--system-prompt", o.system_prompt, "TEXT",
                "system prompt (default: that of the chat template, if it has one)");
    table.value("--sysf,--system-prompt-file", o.system_file, "FILE", "read the system prompt from a file");
    table.value("--in-prefix", o.input_prefix, "TEXT", "put this before each message of the user");
    table.value("--in-suffix", o.input_suffix, "TEXT", "put this after each message of the user");
    table.value("--chat-template", o.chat_template, "NAME",
                fmt::format("one of {} (default: the model's; if that is none of these, chatml with a warning; if the "
                            "model has none, a guess from its vocabulary, or chatml, with a warning)",
                            fmt::join(ChatTemplate::names(), ", "))
                    .c_str());
    table.set("--cnv,--conversation", o.conversation, true, "use the chat template (default of chat)");
    table.set("--no-cnv,--no-conversation", o.conversation, false, "plain completion (default of generate)");
    table.set("--no-display-prompt", o.display_prompt, false, "do not print the prompt before a completion");
    table.set("--show-timings", o.show_timings, true,
              "print tokens per second after each answer (default of chat, and of generate at a terminal)");
    table.set("--no-show-timings", o.show_timings, false, "do not");
    table.set("--no-warmup", o.warmup, false, "no step before the first answer: that one waits for the shaders");
}

void add_sampling(Table& table, SamplingFlags& s) {
    table.value("--temp,--temperature", s.temperature, "T", "temperature; 0 = greedy (default 0.8)")
        ->check(between(0.0, 1000.0));
    table.value("--top-k", s.top_k, "N", "most likely tokens kept; 0 = off (default 40)")
        ->check(between(-1, kMostCount));
    table.value("--top-p", s.top_p, "P", "probability kept; 1 = off (default 0.95)")->check(between(0.0, 1.0));
    table.value("--min-p", s.min_p, "P", "least share of the best token's probability; 0 = off (default 0.05)")
        ->check(between(0.0, 1.0));
    table.value("--repeat-penalty", s.repeat_penalty, "R", "penalty of repeated tokens; 1 = off (default)")
        ->check(between(0.01, 100.0));
    table
        .value(
            "--repeat-last-n", s.repeat_last_n, "N",
            fmt::format(
                "tokens that count as repeated, at most {0}; -1 = the whole context, but no more than {0} (default 64)",
                kMostRepeatTokens)
                .c_str())
        ->check(between(-1, kMostRepeatTokens));
    for (auto [name, target] :
         {std::pair("--presence-penalty", &s.presence_penalty), std::pair("--frequency-penalty", &s.frequency_penalty)})
        table.value(name, *target, "R", "accepted as 0; there is --repeat-penalty in its place")
            ->check(between(-100.0, 100.0));
    const auto parse_seed = [&s](const std::string& text) {
        std::uint64_t seed = 0;
        const char* end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, seed);
        s.seed.reset();
        if (text == "-1") return std::string();
        if (error != std::errc{} || stop != end)
            return fmt::format("--seed: '{}' is no seed: give a whole number from 0 to {}, or -1 = random", text,
                               UINT64_MAX);
        s.seed = seed;
        return std::string();
    };
    table.parsed("-s,--seed", "N", "seed, a whole number below 2^64; -1 = random (default)", parse_seed);
}

void add_chat(Table& table, Options& o) {
    table.set("--st,--single-turn", o.single_turn, true, "exit after the first answer");
    table.set("--mli,--multiline-input", o.multiline_input, true, "input ends with a line that ends in \\");
    table.set("--simple-io", o.simple_io, true, "plain prompts for a program at the other end");
}

void add_sparse(Table& table, Options& o, bool with_preset) {
    if (with_preset)
        table.value("--sparse", o.sparse.preset, "NAME",
                    "sparse attention: off (default), auto or a preset of info --policies");
    SparseOverrides& s = o.sparse.overrides;
    table
        .value("--sparse-mass", s.mass, "P",
               "share of the estimated attention to keep per head, above 0 to 1; 1 = all (default: the preset's)")
        ->check(between(0.0, 1.0, Least::kExcluded));
    table
        .value("--sparse-budget", s.budget, "N",
               "most tokens attended per kv head, sinks and window included (default: the preset's)")
        ->check(between(1, kMostCount));
    table.value("--sparse-sink", s.sink, "N", "first tokens that are always attended (default: the preset's)")
        ->check(between(0, kMostCount));
    table.value("--sparse-window", s.window, "N", "last tokens that are always attended (default: the preset's)")
        ->check(between(0, kMostCount));
    table
        .value("--sparse-block", s.block, "N",
               "tokens of a block in presets that score blocks: 16, 32 or 64 (default: the preset's)")
        ->check(between(16, 64));
    table.set("--sparse-compensation", s.compensate, true,
              "razor, duo, rtpurbo: what leaves the window of a local head counts as one token, its mean");
    table
        .value("--sparse-min-ctx", s.min_ctx, "N",
               "dense below so many tokens (default: the preset's; 0 in perplexity and eval)")
        ->check(between(0, kMostCount));
    table.value(
        "--sparse-layers", o.sparse_layers, "A-B,..",
        "layers that are sparse, counted from 0 (2-29 or 0,4,8-; default: the preset's choice; quest and others "
        "leave the first two dense)");
    table
        .value("--index-type", o.index_type, "TYPE",
               "index keys of hisa, rtpurbo and fasa: f16, int8 or auto (default: int8 beside a quantised cache, else "
               "f16)")
        ->check(CLI::IsMember({"auto", "f16", "int8"}));
    if (with_preset)
        table.value("--audit", o.audit, "full|N",
                    "measure the captured attention mass: always, or of one in N (layer, step) pairs (default: off)");
}

void add_eval(Table& table, Options& o) {
    table.value("--presets", o.eval.presets, "A,B",
                fmt::format("sparse presets to compare with dense (default {})", o.eval.presets).c_str());
    table
        .value("--positions", o.eval.n_positions, "N",
               "tokens decoded and scored after the prefill, 8 at least (default 256)")
        ->check(between(8, 65536));
    table.value("--json", o.eval.json_file, "FILE", "also write the rows as JSON");
    table.value("--plot", o.eval.plot_file, "FILE", "captured mass and share per layer and head as SVG");
}

void add_calibrate(Table& table, Options& o) {
    CalibrateFlags& c = o.calibrate;
    table.value(
        "-f,--file", o.prompt_file, "FILE",
        "plain text to learn from, 512 tokens at least, better 6000; - = standard input (default: a built-in page)");
    table.value("-o,--output", c.output_file, "FILE",
                "the sidecar to write (default: MODEL.winnow.gguf beside the model)");
    table
        .value("--index-dim", c.index_dim, "N",
               "width of index keys, a multiple of 8 to 64 (default: a quarter of the head)")
        ->check(between(8, 64));
    table
        .value("--retrieval-share", c.retrieval_share, "X",
               "share of the kv heads that keep every token, 0 to 1 (default: found)")
        ->check(between(0.0, 1.0));
    table.value("--plot", c.plot_file, "FILE", "scores of heads, mass of the index and likeness of layers as SVG");
}

void add_shape(Table& table, Options& o, const char* help) {
    table.value("--shape", o.shape, "NAME", help);
    table.value("--type", o.weight_type, "TYPE",
                "type of those weights: q4_0 (default), q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, "
                "f16, bf16 or f32");
}

void add_assumed_share(Table& table, Options& o) {
    table
        .value("--retrieval-share", o.assumed_share, "X",
               "share of the kv heads of that shape that rtpurbo and duo let keep every token, 0 "
               "to 1 (default 0.28)")
        ->check(between(0.0, 1.0));
}

void add_bench(Table& table, Options& o) {
    add_shape(table, o, "random weights of a known shape in place of -m: 135m, 1b or 8b");
    add_assumed_share(table, o);
    table.list("-p,--n-prompt", o.bench.n_prompt, "N,..", "tokens to prefill (default 512)");
    table.list("-n,--n-gen", o.bench.n_gen, "N,..", "tokens to generate (default 128)");
    table.list("--pg", o.bench.pairs, "PP,TG", "prefill, then generate, timed together (default: none)");
    table.list("-d,--n-depth", o.bench.depths, "N,..", "tokens in the cache before the test (default 0)");
    table.value("-r,--repetitions", o.bench.repetitions, "N", "runs of each test (default 5)")
        ->check(between(1, 100000));
    table.value("-o,--output", o.bench.output, "FORMAT", "md (default), csv, json, jsonl, sql or none")
        ->check(CLI::IsMember({"md", "csv", "json", "jsonl", "sql", "none"}));
    table
        .value("--oe,--output-err", o.bench.output_err, "FORMAT",
               "the same report once more, in this format on standard error (default none)")
        ->check(CLI::IsMember({"md", "csv", "json", "jsonl", "sql", "none"}));
    table.set("--stages", o.bench.stages, true,
              "also device time, bytes and dispatches of each stage of a decode step");
    table.set("--no-warmup", o.warmup, false, "no run before the timed ones");
}

constexpr const char* kCommandsHelp =
    "Commands:\n"
    "  chat        talk with the model; the default (-p answers once)\n"
    "  generate    complete a text\n"
    "  tokenize    show the tokens of a text\n"
    "  perplexity  measure the model on a text file\n"
    "  info        devices, model, memory for a context\n"
    "  bench       tokens per second\n"
    "  eval        sparse attention presets against dense, on a text\n"
    "  calibrate   learn which heads retrieve and a small index, for better presets\n"
    "`winnow help COMMAND` lists the flags of a command. Each flag with a long name has a twin in the\n"
    "environment, WINNOW_CTX_SIZE for --ctx-size (the first long name counts); the command line wins.\n"
    "Exit status: 0 done, 1 a file could not be read or written, or an internal failure, 2 wrong\n"
    "arguments, 3 no usable device, 4 no such model, or a damaged one, 5 too little memory, 6 the device\n"
    "was lost, 130 interrupted.";

const char* description(Command command) {
    switch (command) {
        case Command::kChat: return "Talk with a GGUF model on a Vulkan device.";
        case Command::kGenerate: return "Complete the text of -p or -f.";
        case Command::kTokenize: return "Show the tokens of the text of -p or -f.";
        case Command::kPerplexity: return "Perplexity of a text: second half of each window of -c tokens.";
        case Command::kInfo: return "Devices, model facts and the memory for a context.";
        case Command::kBench: return "Speed of prefill and decode.";
        case Command::kEval: return "Quality of sparse attention presets against dense attention on a text.";
        case Command::kCalibrate:
            return "Learn from one text what the sparse attention presets need to know of a model.";
    }
    return "";
}

}  // namespace

std::string value_type(const CLI::Option& option) {
    const std::string type = option.get_type_name();
    return type.substr(0, type.find(':'));
}

std::vector<std::string> shown_names(const CLI::Option& option) {
    std::vector<std::string> names;
    for (const std::string& name : option.get_snames()) names.push_back("-" + name);
    for (const std::string& name : option.get_lnames()) {
        const bool single = std::find(kSingleDash.begin(), kSingleDash.end(), name) != kSingleDash.end();
        names.push_back((single ? "-" : "--") + name);
    }
    return names;
}

const char* command_name(Command command) {
    switch (command) {
        case Command::kChat: return "chat";
        case Command::kGenerate: return "generate";
        case Command::kTokenize: return "tokenize";
        case Command::kPerplexity: return "perplexity";
        case Command::kInfo: return "info";
        case Command::kBench: return "bench";
        case Command::kEval: return "eval";
        case Command::kCalibrate: return "calibrate";
    }
    return "";
}

std::unique_ptr<CLI::App> make_parser(Command command, Options& options) {
    auto app = std::make_unique<CLI::App>(description(command), command_name(command));
    app->formatter(std::make_shared<HelpFormatter>());
    app->set_help_flag("-h,--help", "this text");
    app->set_version_flag("--version",
                          fmt::format("winnow {} (cooperative matrices: {})", version().text,
                                      version().cooperative_matrices ? "yes" : "no"),
                          "the version, and whether shaders for cooperative matrices are built in");
    if (command == Command::kChat) app->footer(kCommandsHelp);

    Table table(*app);
    add_common(table, options);
    switch (command) {
        case Command::kChat:
        case Command::kGenerate:
            add_prompt(table, options, Escapes::kUnlessTold);
            add_session(table, options, kContextHelp);
            add_answer(table, options);
            add_sampling(table, options.sampling);
            add_sparse(table, options, true);
            table.set("--sparse-report", options.sparse_report, true,
                      "after each answer, what sparse attention read and kept in each layer");
            if (command == Command::kChat) add_chat(table, options);
            if (command == Command::kGenerate || !options.has_command) {
                table.value("--logits-out", options.logits_out, "FILE",
                            "write the logits of the prompt, f32 [n_tokens, n_vocab] (.npy); not with --prompt-cache");
                table.set("--json", options.json, true, "print one JSON object");
            }
            break;
        case Command::kTokenize:
            add_prompt(table, options, Escapes::kIfAsked);
            table.set("--ids", options.ids, true, "ids only, on one line");
            table.set("--pieces", options.pieces, true, "tokens only, one on a line");
            table.set("--no-bos", options.add_bos, false, "do not add the token that begins a text");
            table.set("--no-parse-special", options.parse_special, false, "take <|...|> as plain text");
            table.set("--json", options.json, true, "print one JSON object");
            break;
        case Command::kPerplexity:
            add_prompt(table, options, Escapes::kNever);
            add_session(table, options,
                        "tokens of a window, 4 at least; the text must fill one (default 512); 0 = what the model was "
                        "trained for");
            add_sparse(table, options, true);
            table.value("--windows,--chunks", options.n_windows, "N", "only the first N windows (default: all)")
                ->check(between(0, kMostCount));
            table.value("--logits-out", options.logits_out, "FILE", "write all logits, f32 [n_tokens, n_vocab] (.npy)");
            table.value("--kl-divergence-base", options.kl_base, "FILE",
                        "logits of this text and -c: written as --logits-out does, or, with --kl-divergence, read");
            table.set("--kl-divergence", options.kl_divergence, true,
                      "also KL divergence from the logits of --kl-divergence-base");
            table.set("--json", options.json, true, "print one JSON object");
            break;
        case Command::kInfo:
            add_session(table, options, kContextHelp);
            add_sparse(table, options, true);
            add_shape(table, options, "plan for a known shape in place of -m: 135m, 1b or 8b");
            add_assumed_share(table, options);
            table.value("--fit", options.fit, "SIZE",
                        "the longest context that fits a card of this size (8GB, 7.5GiB, 8G = 8GiB); without "
                        "a size, what is free on the device");
            table.set("--policies", options.policies, true, "print the sparse attention presets");
            table.set("--json", options.json, true, "print one JSON object");
            break;
        case Command::kBench:
            add_session(table, options, nullptr);
            add_sparse(table, options, true);
            add_bench(table, options);
            break;
        case Command::kEval:
            add_prompt(table, options, Escapes::kNever);
            add_session(table, options,
                        "tokens of the text that are used, 512 at least and 256 more than --positions; the text must "
                        "have one more (default 4096)");
            add_sparse(table, options, false);
            add_eval(table, options);
            break;
        case Command::kCalibrate:
            add_session(table, options,
                        "tokens of the context to learn for (default: what the model was trained for, 32768 at most)");
            add_shape(table, options,
                      "time it on random weights of a known shape: 135m, 1b or 8b; writes no file "
                      "without -o");
            add_calibrate(table, options);
            break;
    }
    return app;
}

}  // namespace winnow::program
