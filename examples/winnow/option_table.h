// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/CLI.hpp>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "examples/winnow/options.h"

namespace winnow::program {

/// The parser of one command: flat, so that a flag may stand before or after the command's name.
/// Values land in `options`, which must outlive the parser. CLI11 knows no `-ngl`: names of several
/// letters are registered with two dashes and shown with the one that users type.
std::unique_ptr<CLI::App> make_parser(Command command, Options& options);

/// All commands, in the order of the help.
inline constexpr std::array<Command, 8> kCommands = {Command::kChat,       Command::kGenerate, Command::kTokenize,
                                                     Command::kPerplexity, Command::kInfo,     Command::kBench,
                                                     Command::kEval,       Command::kCalibrate};

/// What the help calls the option's value: "N", "FILE".
std::string value_type(const CLI::Option& option);

/// The option's names as users type them.
std::vector<std::string> shown_names(const CLI::Option& option);

}  // namespace winnow::program
