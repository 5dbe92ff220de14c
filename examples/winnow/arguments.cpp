// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "examples/winnow/completion.h"
#include "examples/winnow/model_search.h"
#include "examples/winnow/option_table.h"
#include "examples/winnow/unknown_flag.h"
#include "models/chat_template.h"
#include "winnow/error.h"

namespace winnow::program {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

// "-ngl" as CLI11 must see it ("--ngl"), and '_' as '-' in long names.
std::string normal_name(const std::string& argument, const CLI::App& parser) {
    if (argument.size() < 2 || argument[0] != '-') return argument;
    std::string name = argument.substr(0, argument.find('='));
    const std::string value = argument.substr(name.size());
    if (name[1] == '-') {
        std::replace(name.begin() + 2, name.end(), '_', '-');
    } else if (name.size() > 2 && parser.get_option_no_throw("-" + name) != nullptr) {
        name.insert(0, "-");
    }
    return name + value;
}

// Whether this is exactly a flag's name, perhaps with a value behind a '='.
bool is_name(const std::string& argument, const CLI::App& parser) {
    const std::string name = normal_name(argument, parser);
    return parser.get_option_no_throw(name.substr(0, name.find('='))) != nullptr;
}

// Whether this argument is an option whose value is the next argument.
bool takes_next(const std::string& name, const CLI::App& parser) {
    if (name.size() < 2 || name[0] != '-' || name.find('=') != std::string::npos) return false;
    const CLI::Option* option = parser.get_option_no_throw(name);
    return option != nullptr && option->get_items_expected_min() > 0;
}

// Older scripts write -fa and --color without a value, newer ones with one; CLI11 would swallow
// whatever follows.
bool optional_value(const std::string& name) {
    return name == "--fa" || name == "--flash-attn" || name == "--color" || name == "--log-colors" || name == "--fit";
}

bool is_optional_value(const std::string& name, const std::string& text) {
    if (name == "--fit" && !text.empty() && std::isdigit(static_cast<unsigned char>(text[0])) != 0) return true;
    return text == "on" || text == "off" || text == "auto" || text == "0" || text == "1";
}

const char* value_left_out(const std::string& name) { return name == "--fit" ? "device" : "on"; }

std::vector<std::string> command_names() {
    std::vector<std::string> names;
    for (const Command command : kCommands) names.emplace_back(command_name(command));
    return names;
}

std::optional<Command> command_named(const std::string& word) {
    for (const Command command : kCommands)
        if (word == command_name(command)) return command;
    return std::nullopt;
}

using Parsers = std::vector<std::unique_ptr<CLI::App>>;

// Those of all commands, for questions about names; values go into `scratch`.
Parsers all_parsers(std::vector<Options>& scratch) {
    scratch.resize(kCommands.size());
    Parsers parsers;
    for (std::size_t i = 0; i < kCommands.size(); ++i) parsers.push_back(make_parser(kCommands[i], scratch[i]));
    return parsers;
}

template <typename Holds>
bool any_of(const Parsers& parsers, Holds&& holds) {
    return std::any_of(parsers.begin(), parsers.end(), [&](const auto& parser) { return holds(*parser); });
}

// "see winnow bench --help", for the end of a message.
std::string see_help(const CLI::App& parser) {
    return fmt::format("see winnow {}{}--help", parser.get_name(), parser.get_name().empty() ? "" : " ");
}

// For a word that belongs to no flag.
std::string flag_meant(const std::string& word, bool has_prompt) {
    const char* flag = word.ends_with(".gguf") ? "-m" : has_prompt ? "-p" : nullptr;
    return flag == nullptr ? "" : fmt::format("did you mean {} '{}'? ", flag, word);
}

// A flag that no command has.
[[noreturn]] void refuse_flag(const std::string& argument, const Parsers& parsers) {
    std::vector<std::string> known;
    for (const auto& parser : parsers)
        for (std::string& name : flag_names(*parser)) known.push_back(std::move(name));
    fail(fmt::format("{} is no flag of winnow: {}see winnow --help", argument.substr(0, argument.find('=')),
                     hint(argument, known)));
}

// A flag that this command does not have.
[[noreturn]] void refuse_flag(const std::string& argument, const CLI::App& parser) {
    std::vector<Options> scratch;
    std::vector<std::string> others;
    for (const auto& other : all_parsers(scratch))
        if (is_flag(normal_name(argument, *other), *other)) others.push_back(other->get_name());
    std::string then = hint(argument, others.empty() ? flag_names(parser) : std::vector<std::string>());
    if (then.empty() && !others.empty()) then = fmt::format("it is one of {}; ", fmt::join(others, ", "));
    fail(fmt::format("{} is no flag of winnow {}: {}{}", argument.substr(0, argument.find('=')),
                     parser.get_name().empty() ? "chat" : parser.get_name(), then, see_help(parser)));
}

struct Found {
    Command command = Command::kChat;
    std::size_t position = std::string::npos;
};

// The first word that is neither a flag nor a flag's value. Flags are those of all commands, since
// the command is what is being looked for.
Found find_command(const std::vector<std::string>& arguments) {
    std::vector<Options> scratch;
    const Parsers parsers = all_parsers(scratch);
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        if (argument.empty() || argument[0] != '-' || argument == "-") {
            if (const auto command = command_named(argument)) return {*command, i};
            std::string meant = suggestion(argument, command_names());
            if (meant.empty()) meant = flag_meant(argument, argument.find(' ') != std::string::npos);
            fail(fmt::format("'{}' is no command and no flag: {}see winnow --help", argument, meant));
        }
        if (!any_of(parsers, [&](const CLI::App& parser) { return is_flag(normal_name(argument, parser), parser); }))
            refuse_flag(argument, parsers);
        const std::string next_word = i + 1 < arguments.size() ? arguments[i + 1] : "";
        const bool lacks_value = next_word.starts_with("-") &&
                                 any_of(parsers, [&](const CLI::App& parser) { return is_name(next_word, parser); });
        bool skip = false;
        for (const auto& parser : parsers) {
            const std::string name = normal_name(argument, *parser);
            if (optional_value(name)) {
                skip = i + 1 < arguments.size() && is_optional_value(name, arguments[i + 1]);
                break;
            }
            if (takes_next(name, *parser)) skip = !lacks_value;
        }
        // --json takes a file in eval and nothing elsewhere: before the name of such a command it is that command's.
        const auto next = i + 1 < arguments.size() ? command_named(arguments[i + 1]) : std::nullopt;
        if (skip && next) {
            const auto at =
                static_cast<std::size_t>(std::find(kCommands.begin(), kCommands.end(), *next) - kCommands.begin());
            const std::string name = normal_name(argument, *parsers[at]);
            if (parsers[at]->get_option_no_throw(name) != nullptr && !takes_next(name, *parsers[at])) skip = false;
        }
        if (skip) ++i;
    }
    return {};
}

bool is_switch(const std::string& value) {
    bool ignored = false;
    return CLI::detail::lexical_cast(value, ignored);
}

// A flag without a value may have one behind a '=' all the same, but just these.
void check_switch(const std::string& name, const CLI::App& parser) {
    const std::size_t at = name.find('=');
    const CLI::Option* option = at == std::string::npos ? nullptr : parser.get_option_no_throw(name.substr(0, at));
    if (option != nullptr && option->get_items_expected_max() == 0 && !is_switch(name.substr(at + 1)))
        fail(fmt::format("{}: give nothing behind the flag, or 1 or 0", name));
}

// Nor may its twin in the environment have others.
void check_environment(const CLI::App& parser) {
    for (const CLI::Option* option : parser.get_options()) {
        const char* value = option->get_envname().empty() ? nullptr : std::getenv(option->get_envname().c_str());
        if (value != nullptr && *value != '\0' && option->get_items_expected_max() == 0 && !is_switch(value))
            fail(fmt::format("{}={}: give 1, on, yes or true, or 0, off, no or false", option->get_envname(), value));
    }
}

std::vector<std::string> normal_arguments(const std::vector<std::string>& arguments, std::size_t command_at,
                                          const CLI::App& parser) {
    std::vector<std::string> normal;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        if (i == command_at) continue;
        const std::string name = normal_name(arguments[i], parser);
        if (name.size() < 2 || name[0] != '-')
            fail(fmt::format("'{}' is the value of no flag: {}{}", name,
                             flag_meant(name, parser.get_option_no_throw("--prompt") != nullptr), see_help(parser)));
        if (!is_flag(name, parser)) refuse_flag(arguments[i], parser);
        check_switch(name, parser);
        if (optional_value(name)) {
            // A word that stands there and is none of the values is a wrong one, and no command.
            const bool has_value =
                i + 1 < arguments.size() && i + 1 != command_at && !arguments[i + 1].starts_with("-");
            normal.push_back(name + "=" + (has_value ? arguments[++i] : value_left_out(name)));
            continue;
        }
        if (name.find('=') == 2 && name[1] != '-' && takes_next(name.substr(0, 2), parser)) {
            normal.insert(normal.end(), {name.substr(0, 2), name.substr(3)});  // CLI11 would have -c=8 mean "=8"
            continue;
        }
        normal.push_back(name);
        if (!takes_next(name, parser)) continue;
        if (i + 1 == arguments.size())
            fail(fmt::format("{} lacks its value, {}: {}", arguments[i], value_type(*parser.get_option(name)),
                             see_help(parser)));
        const std::string& value = arguments[++i];
        if (value.size() > 1 && value[0] == '-' && is_name(value, parser))
            fail(fmt::format("{} lacks its value: {} is a flag (if it is meant, write --{}={})", arguments[i - 1],
                             value, parser.get_option(name)->get_lnames().front(), value));
        normal.push_back(value);
    }
    return normal;
}

std::string one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.pop_back();
    if (!text.empty()) text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
    constexpr std::string_view kUnconverted = "could not convert: ";  // "--predict = 2.5"
    return text.starts_with(kUnconverted) ? text.substr(kUnconverted.size()) + " is no whole number" : text;
}

// Whether the message names this flag, and not only one that it is a part of, as --sparse is of --sparse-mass.
bool names_flag(std::string_view message, std::string_view flag) {
    const auto is_part = [&](std::size_t i) {
        return i < message.size() && (message[i] == '-' || std::isalnum(static_cast<unsigned char>(message[i])) != 0);
    };
    if (flag.empty()) return false;  // hidden from the help
    for (std::size_t at = message.find(flag); at != std::string_view::npos; at = message.find(flag, at + 1))
        if ((at == 0 || !is_part(at - 1)) && !is_part(at + flag.size())) return true;
    return false;
}

// " (of WINNOW_SEED)" where what is wrong with a flag's value came from its twin in the environment.
std::string origin(const std::string& message, const std::vector<std::string>& arguments, const CLI::App& parser) {
    for (const CLI::Option* option : parser.get_options()) {
        const char* value = option->get_envname().empty() ? nullptr : std::getenv(option->get_envname().c_str());
        if (value == nullptr || *value == '\0' || !names_flag(message, option->get_name())) continue;
        const bool was_typed = std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
            const std::string name = normal_name(argument, parser);
            return parser.get_option_no_throw(name.substr(0, name.find('='))) == option;
        });
        if (!was_typed) return fmt::format(" (of {})", option->get_envname());
    }
    return "";
}

// Where the model lies that is given by its name; one that is not found is refused when it is opened.
std::string model_path(const std::string& name) {
    if (name.empty()) return name;
    try {
        return find_model(name).string();
    } catch (const Error&) {
        return name;
    }
}

// Whether what is written to one is lost when the other is written; devices and pipes keep nothing.
bool is_one_file(const std::string& a, const std::string& b) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::exists(a, error) && !fs::is_regular_file(a, error)) return false;
    const fs::path full_a = fs::weakly_canonical(fs::absolute(a, error), error);
    return !error && full_a == fs::weakly_canonical(fs::absolute(b, error), error);
}

// What is written must not be what is read: a slip such as `calibrate -m M -o M` would cost a download. Nor may two
// outputs be one file.
void check_files(const Options& options) {
    std::vector<std::pair<const char*, std::string>> written = {
        {"--log-file", options.log_file},
        {"--output", options.calibrate.output_file},
        {"--logits-out", options.logits_out},
        {"--plot", options.calibrate.plot_file},
        {"--json", options.eval.json_file},
        {"--plot", options.eval.plot_file},
        {"--prompt-cache", options.prompt_cache},
        {"--kl-divergence-base", options.kl_divergence ? std::string() : options.kl_base}};
    std::erase_if(written, [](const auto& output) { return output.second.empty(); });
    if (written.empty()) return;  // nor is the model looked for
    const std::string base = options.kl_divergence ? options.kl_base : std::string();
    const std::string inputs[] = {model_path(options.model), options.prompt_file, options.system_file, base};
    for (auto output = written.begin(); output != written.end(); ++output) {
        const auto& [flag, path] = *output;
        for (const std::string& read : inputs) {
            std::error_code ignored;
            if (std::filesystem::is_regular_file(read, ignored) && std::filesystem::equivalent(path, read, ignored))
                fail(fmt::format("{} {}: that file is read, and would be lost; give another", flag, path));
        }
        for (auto other = written.begin(); other != output; ++other)
            if (is_one_file(other->second, path))
                fail(fmt::format("{} {}: {} writes that file too; give another", flag, path, other->first));
    }
}

void check_together(const Options& options) {
    if (!options.chat_template.empty()) ChatTemplate::named(options.chat_template);
    check_files(options);
    if (options.prompt && !options.prompt_file.empty()) fail("give -p or -f, not both");
    if (options.system_prompt && !options.system_file.empty()) fail("give -sys or -sysf, not both");
    if (options.ids && options.pieces) fail("give --ids or --pieces, not both");
    const auto refuse_penalty = [](const char* flag, double value) {
        if (value != 0)
            fail(fmt::format("{} {}: winnow's sampler does not have it; use --repeat-penalty", flag, value));
    };
    refuse_penalty("--presence-penalty", options.sampling.presence_penalty);
    refuse_penalty("--frequency-penalty", options.sampling.frequency_penalty);
    kv_type(options);
    if (options.fit.empty()) return;
    if (options.fit != "device") parse_size(options.fit, "--fit");
    if (options.n_ctx.value_or(0) > 0) fail("give -c or --fit, not both: --fit finds the context");
    if (options.model.empty() && options.shape.empty()) fail("--fit needs a model: give -m or --shape");
}

// --sparse-report says itself that sparse attention is off; eval has --presets.
std::vector<std::string> idle_sparse_flags(const Options& options, const CLI::App& parser) {
    std::vector<std::string> flags;
    if (options.sparse.preset != "off" || options.command == Command::kEval) return flags;
    for (const CLI::Option* option : parser.get_options())
        for (const std::string& name : shown_names(*option))
            if (option->count() > 0 &&
                ((name.starts_with("--sparse-") && name != "--sparse-report") || name == "--audit"))
                flags.push_back(name);
    return flags;
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

}  // namespace

ParsedArguments parse_arguments(const std::vector<std::string>& arguments) {
    if (!arguments.empty() && arguments[0] == "help") {
        std::vector<std::string> asked(arguments.begin() + 1, arguments.end());
        asked.emplace_back("--help");
        return parse_arguments(asked);
    }
    const Found found = find_command(arguments);
    ParsedArguments parsed;
    Options& options = parsed.options;
    options.command = found.command;
    options.has_command = found.position != std::string::npos;
    const std::unique_ptr<CLI::App> parser = make_parser(options.command, options);
    if (!options.has_command) parser->name("");
    std::vector<std::string> normal = normal_arguments(arguments, found.position, *parser);
    check_environment(*parser);
    std::reverse(normal.begin(), normal.end());  // CLI11 takes them from the back
    try {
        parser->parse(std::move(normal));
    } catch (const CLI::CallForHelp&) {
        parsed.text = parser->help();
        return parsed;
    } catch (const CLI::CallForVersion& version) {
        parsed.text = std::string(version.what()) + "\n";
        return parsed;
    } catch (const CLI::ParseError& error) {
        fail(fmt::format("{}{}: {}", one_line(error.what()), origin(error.what(), arguments, *parser),
                         see_help(*parser)));
    }
    if (!options.completion.empty()) {
        parsed.text = completion_script(options.completion);
        return parsed;
    }
    check_together(options);
    options.idle_flags = idle_sparse_flags(options, *parser);
    if (options.cache_type_v.empty()) parsed.options.cache_type_v = options.cache_type_k;
    return parsed;
}

KvType kv_type(const Options& options) {
    const auto parse = [](const std::string& name, const char* flag) {
        if (name == "f16") return KvType::kF16;
        if (name == "f32") return KvType::kF32;
        if (name == "q8_0") return KvType::kQ8_0;
        if (name == "q4_0") return KvType::kQ4_0;
        fail(
            fmt::format("{} {}: winnow does not store keys and values as that; use f16, f32, q8_0 "
                        "or q4_0",
                        flag, name));
    };
    const KvType k = parse(options.cache_type_k, "-ctk");
    const KvType v = options.cache_type_v.empty() ? k : parse(options.cache_type_v, "-ctv");
    if (k != v) {
        fail(fmt::format("-ctk {} with -ctv {}: winnow does not mix them yet; give both the same type",
                         options.cache_type_k, options.cache_type_v));
    }
    return k;
}

std::uint64_t parse_size(const std::string& text, const char* flag) {
    constexpr double kLeast = 1 << 20, kMost = 1e15;  // bytes: no card is smaller, and 8 is certainly meant otherwise
    double value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    std::string unit(stop, end);
    for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    constexpr std::array<std::pair<std::string_view, double>, 8> kUnits = {{{"", 1},
                                                                            {"b", 1},
                                                                            {"mb", 1e6},
                                                                            {"gb", 1e9},
                                                                            {"m", 1 << 20},
                                                                            {"g", 1 << 30},
                                                                            {"mib", 1 << 20},
                                                                            {"gib", 1 << 30}}};
    for (const auto& [name, factor] : kUnits)
        if (error == std::errc{} && unit == name && value * factor >= kLeast && value * factor < kMost)
            return static_cast<std::uint64_t>(value * factor);
    fail(fmt::format(
        "{} {}: give a size with its unit, such as 8G or 8GiB (of 2^30 bytes), 8GB or 6000MB, 1 MiB at least", flag,
        text));
}

std::string resolve_escapes(const std::string& text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\\' || i + 1 == text.size()) {
            out += text[i];
            continue;
        }
        const char next = text[++i];
        switch (next) {
            case 'n': out += '\n'; break;
            case 'r': out += '\r'; break;
            case 't': out += '\t'; break;
            case '\'': out += '\''; break;
            case '"': out += '"'; break;
            case '\\': out += '\\'; break;
            case 'x':
                if (i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
                    out += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
                    i += 2;
                    break;
                }
                [[fallthrough]];
            default: out += '\\'; out += next;
        }
    }
    return out;
}

}  // namespace winnow::program
