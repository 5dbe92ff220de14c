// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/unknown_flag.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "examples/winnow/option_table.h"

namespace winnow::program {
namespace {

// Letters to insert, drop, change or swap with their neighbour: Damerau and Levenshtein's distance, each place once.
std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
    for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
    for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i)
        for (std::size_t j = 1; j <= b.size(); ++j) {
            d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[a.size()][b.size()];
}

// Without the dashes, as -temp and --Temp are meant for --temp.
std::string bare(std::string_view name) {
    std::string text(name.substr(std::min(name.find_first_not_of('-'), name.size())));
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
}

}  // namespace

bool is_flag(const std::string& name, const CLI::App& parser) {
    if (parser.get_option_no_throw(name.substr(0, name.find('='))) != nullptr) return true;
    if (name.size() < 3 || name[1] == '-') return false;
    for (std::size_t i = 1; i < name.size(); ++i) {
        const CLI::Option* option = parser.get_option_no_throw(std::string{'-', name[i]});
        if (option == nullptr) return false;
        if (option->get_items_expected_max() > 0) return true;  // the rest is its value
    }
    return true;
}

std::string suggestion(std::string_view typed, const std::vector<std::string>& known) {
    constexpr std::size_t kMostBytes = 64;  // nothing that long is a name
    const std::string wanted = bare(typed.substr(0, std::min(typed.find('='), kMostBytes)));
    const std::size_t most = wanted.size() < 5 ? 1 : 2;
    std::size_t least = most + 1;
    std::string_view nearest;
    for (const std::string& name : known) {
        const std::string candidate = bare(name);
        if (candidate.size() < 2) continue;  // a letter is near to everything
        const std::size_t distance = edit_distance(wanted, candidate);
        if (distance >= least || distance >= wanted.size()) continue;
        least = distance;
        nearest = name;
    }
    return nearest.empty() ? std::string() : fmt::format("did you mean {}? ", nearest);
}

std::vector<std::string> flag_names(const CLI::App& parser) {
    std::vector<std::string> names;
    for (const CLI::Option* option : parser.get_options())
        for (std::string& name : shown_names(*option)) names.push_back(std::move(name));
    return names;
}

}  // namespace winnow::program
