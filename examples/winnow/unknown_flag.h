// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace winnow::program {

/// Whether `name`, as CLI11 must see it, is a flag of this parser: a name, one letter with its value behind it (-n8),
/// or letters of flags without values (-ve).
bool is_flag(const std::string& name, const CLI::App& parser);

/// "did you mean --prompt? " for the name of `known` that `typed` is a slip of the finger away from, or "".
std::string suggestion(std::string_view typed, const std::vector<std::string>& known);

/// For a flag that is none of `known`: what to do in place of one of llama.cpp's, "it reads text only; leave it out; ",
/// or a suggestion.
std::string hint(std::string_view typed, const std::vector<std::string>& known);

/// The names of all flags as users type them.
std::vector<std::string> flag_names(const CLI::App& parser);

}  // namespace winnow::program
