// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "examples/winnow/commands.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/terminal.h"

namespace winnow::program {
namespace {

constexpr std::size_t kFlushBytes = 1 << 16;

std::string as_json(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
    nlohmann::json pieces = nlohmann::json::array();
    for (const TokenId id : ids) pieces.push_back(tokenizer.piece(id, true));
    const nlohmann::json root = {{"n_tokens", ids.size()}, {"tokens", ids}, {"pieces", pieces}};
    return root.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

int run_tokenize(const Options& options) {
    const Vocabulary vocabulary = open_vocabulary(options);
    const std::optional<std::string> text = prompt_text(options);
    if (!text)
        throw Error(ErrorCode::kInvalidArgument, "no text: give one with -p TEXT or -f FILE (- = standard input)");
    const Tokenizer& tokenizer = *vocabulary.tokenizer;
    warn_of_missing_bytes(tokenizer, *text);
    const std::vector<TokenId> ids =
        tokenizer.encode(*text, {.add_bos = options.add_bos, .parse_special = options.parse_special});
    if (options.json) {
        write_out(as_json(tokenizer, ids));
        return 0;
    }
    std::string out;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (options.ids) {
            out += fmt::format("{}{}", i == 0 ? "" : " ", ids[i]);
        } else if (options.pieces) {
            out += printable(tokenizer.raw_token(ids[i])) + "\n";
        } else {
            out += fmt::format("{:6} -> '{}'\n", ids[i], printable(tokenizer.piece(ids[i], true)));
        }
        if (out.size() > kFlushBytes) {
            write_out(out);
            out.clear();
        }
    }
    if (options.ids) out += "\n";
    write_out(out);
    return 0;
}

}  // namespace winnow::program
