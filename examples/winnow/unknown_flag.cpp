// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/unknown_flag.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
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

// Flags of llama.cpp, each between spaces, and what winnow's user does instead.
struct Foreign {
    std::string_view names, advice;
};
constexpr std::array<Foreign, 7> kForeign = {{
    {" -hf -hfr --hf-repo -hff --hf-file -hft --hf-token -mu --model-url -dr --docker-repo ",
     "it downloads no model; give a file with -m FILE.gguf"},
    {" -mg --main-gpu ", "choose the device with -dev, by its number in --list-devices"},
    {" -sm --split-mode -ts --tensor-split ", "a model runs on one device as a whole; leave it out"},
    {" -fit --fit -fitt --fit-target -fitc --fit-ctx ",
     "without -c the context is what fits; winnow info --fit SIZE plans for a card"},
    {" -md --model-draft -hfd -hfrd --hf-repo-draft ", "there are no draft models; leave it out"},
    {" -mmp --mmap --no-mmap --mlock ", "the weights lie in the device's memory; leave it out"},
    {" -mm --mmproj -mmu --mmproj-url ", "it reads text only; leave it out"},
}};

// Of these names CLI11 would make `-h -f` or `-m g`.
std::string_view foreign_advice(std::string_view name) {
    const std::string word = fmt::format(" {} ", name.substr(0, name.find('=')));
    for (const Foreign& flag : kForeign)
        if (flag.names.find(word) != std::string_view::npos) return flag.advice;
    return {};
}

// Whether this can be a value that stands behind its flag's letter. -nkvo and -ts are no numbers.
bool is_value_of(const CLI::Option& option, std::string_view text) {
    const bool is_number = value_type(option) == "N" || value_type(option) == "N,..";
    return !is_number || text.find_first_of("0123456789") <= 1;
}

}  // namespace

bool is_flag(const std::string& name, const CLI::App& parser) {
    if (parser.get_option_no_throw(name.substr(0, name.find('='))) != nullptr) return true;
    if (name.size() < 3 || name[1] == '-' || !foreign_advice(name).empty()) return false;
    for (std::size_t i = 1; i < name.size(); ++i) {
        const CLI::Option* option = parser.get_option_no_throw(std::string{'-', name[i]});
        if (option == nullptr) return false;
        if (option->get_items_expected_max() > 0)  // the rest is its value
            return i + 1 == name.size() || is_value_of(*option, std::string_view(name).substr(i + 1));
    }
    return true;
}

std::string hint(std::string_view typed, const std::vector<std::string>& known) {
    const std::string_view advice = foreign_advice(typed);
    return advice.empty() ? suggestion(typed, known) : fmt::format("{}; ", advice);
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
