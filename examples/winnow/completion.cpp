// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "examples/winnow/option_table.h"

namespace winnow::program {
namespace {

struct Flag {
    std::vector<std::string> names;  ///< as typed
    std::string help;
    std::string type;  ///< of its value; empty = takes none
    bool takes_file() const { return type == "FILE"; }
};

struct CommandFlags {
    std::string name, help;
    std::vector<Flag> flags;
    std::vector<std::string> names() const {
        std::vector<std::string> all;
        for (const Flag& flag : flags) all.insert(all.end(), flag.names.begin(), flag.names.end());
        return all;
    }
};

std::vector<CommandFlags> all_flags() {
    std::vector<CommandFlags> all;
    for (const Command command : kCommands) {
        Options scratch;
        scratch.has_command = true;
        const std::unique_ptr<CLI::App> parser = make_parser(command, scratch);
        CommandFlags entry{command_name(command), parser->get_description(), {}};
        for (const CLI::Option* option : parser->get_options()) {
            const bool takes_value = option->get_items_expected_max() > 0;
            entry.flags.push_back(
                {shown_names(*option), option->get_description(), takes_value ? value_type(*option) : std::string()});
        }
        all.push_back(std::move(entry));
    }
    return all;
}

std::vector<std::string> command_names(const std::vector<CommandFlags>& all) {
    std::vector<std::string> names;
    for (const CommandFlags& command : all) names.push_back(command.name);
    return names;
}

// Names of flags whose value is a file, or another kind of value.
std::vector<std::string> names_with_value(const CommandFlags& command, bool file) {
    std::vector<std::string> names;
    for (const Flag& flag : command.flags)
        if (!flag.type.empty() && flag.takes_file() == file)
            names.insert(names.end(), flag.names.begin(), flag.names.end());
    return names;
}

std::string bash_script(const std::vector<CommandFlags>& all) {
    const auto words = [](const CommandFlags& command, const std::string& more) {
        return fmt::format("words='{}{}' files=' {} ' values=' {} ' ;;\n", more, fmt::join(command.names(), " "),
                           fmt::join(names_with_value(command, true), " "),
                           fmt::join(names_with_value(command, false), " "));
    };
    std::string cases;
    for (const CommandFlags& command : all) cases += fmt::format("        {}) {}", command.name, words(command, ""));
    const std::string names = fmt::format("{} ", fmt::join(command_names(all), " "));
    return fmt::format(
        R"(# winnow: completion for bash. Use: source <(winnow --completion-bash)
_winnow() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= word words files values
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in {commands}) command=$word; break ;; esac
    done
    case $command in
{cases}        *) {chat}    esac
    COMPREPLY=()
    if [[ $files == *" $previous "* ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif [[ $values != *" $previous "* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    fi
}}
complete -o filenames -F _winnow winnow
)",
        fmt::arg("commands", fmt::join(command_names(all), "|")), fmt::arg("cases", cases),
        fmt::arg("chat", words(all.front(), names)));
}

// `text` with a backslash before each of `special`.
std::string escaped(const std::string& text, std::string_view special) {
    std::string out;
    for (const char c : text) {
        if (special.find(c) != std::string_view::npos) out += '\\';
        out += c;
    }
    return out;
}

std::string single_quoted(const std::string& text) {
    std::string out = "'";
    for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return out + "'";
}

std::string zsh_script(const std::vector<CommandFlags>& all) {
    const auto specs = [](const CommandFlags& command) {
        std::string lines;
        for (const Flag& flag : command.flags) {
            for (const std::string& name : flag.names) {
                std::string spec =
                    fmt::format("({}){}[{}]", fmt::join(flag.names, " "), name, escaped(flag.help, "[]\\"));
                if (!flag.type.empty())
                    spec += fmt::format(":{}:{}", escaped(flag.type, ":"), flag.takes_file() ? "_files" : " ");
                lines += fmt::format(" \\\n                {}", single_quoted(spec));
            }
        }
        return lines;
    };
    std::string cases, described;
    for (const CommandFlags& command : all) {
        cases += fmt::format("        {})\n            _arguments -S '*: :'{} ;;\n", command.name, specs(command));
        described += fmt::format(" {}", single_quoted(fmt::format("{}:{}", command.name, command.help)));
    }
    return fmt::format(
        R"(#compdef winnow
# winnow: completion for zsh. Use: source <(winnow --completion-zsh), or save it as _winnow in a folder of $fpath.
_winnow_commands() {{
    local -a commands=({described})
    _describe command commands
}}
_winnow() {{
    local word command=
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case $word in {commands}) command=$word; break ;; esac
    done
    case $command in
{cases}        *)
            _arguments -S '*: :_winnow_commands'{chat} ;;
    esac
}}
if [[ $funcstack[1] == _winnow ]]; then _winnow "$@"; else compdef _winnow winnow; fi
)",
        fmt::arg("described", described), fmt::arg("commands", fmt::join(command_names(all), "|")),
        fmt::arg("cases", cases), fmt::arg("chat", specs(all.front())));
}

std::string fish_script(const std::vector<CommandFlags>& all) {
    const std::string commands = fmt::format("{}", fmt::join(command_names(all), " "));
    std::string script =
        "# winnow: completion for fish. Use: winnow --completion-fish | source\ncomplete -c winnow -f\n";
    for (const CommandFlags& command : all)
        script += fmt::format("complete -c winnow -n 'not __fish_seen_subcommand_from {}' -a {} -d {}\n", commands,
                              command.name, single_quoted(escaped(command.help, "\\")));
    for (const CommandFlags& command : all) {
        // Without a command it is a chat.
        std::string condition = fmt::format("__fish_seen_subcommand_from {}", command.name);
        if (command.name == all.front().name)
            condition += fmt::format("; or not __fish_seen_subcommand_from {}", commands);
        for (const Flag& flag : command.flags) {
            std::string line = fmt::format("complete -c winnow -n '{}'", condition);
            for (const std::string& name : flag.names) {
                const bool is_long = name.starts_with("--"), is_letter = name.size() == 2;
                line += fmt::format(" -{} {}", is_long ? 'l' : is_letter ? 's' : 'o', name.substr(is_long ? 2 : 1));
            }
            if (!flag.type.empty()) line += flag.takes_file() ? " -r -F" : " -x";
            script += line + " -d " + single_quoted(escaped(flag.help, "\\")) + "\n";
        }
    }
    return script;
}

}  // namespace

std::string completion_script(const std::string& shell) {
    const std::vector<CommandFlags> all = all_flags();
    if (shell == "zsh") return zsh_script(all);
    if (shell == "fish") return fish_script(all);
    return bash_script(all);
}

}  // namespace winnow::program
