// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "examples/winnow/line_editor.h"

namespace winnow::program {

/// Lines of standard input that Ctrl-C can interrupt at once.
class LineInput {
public:
    /// What stands before a message and before each line that continues it.
    struct Prompts {
        std::string first, continuation;
    };
    /// @param show writes a prompt. Not called with an `editor`, which shows them itself.
    LineInput(Prompts prompts, std::function<void(const std::string&)> show, std::unique_ptr<LineEditor> editor)
        : prompts_(std::move(prompts)), show_(std::move(show)), editor_(std::move(editor)) {}

    struct Message {
        std::string text;
        bool is_command = false;  ///< a line that begins with `/`
    };

    /// One message: a line; with a `\` at its end the next line too; between lines of `"""`
    /// everything. In `multiline` mode it is the other way round: lines until one that ends in `\`.
    /// Pasted text is one line whatever its line ends, where an editor sees it come. A line that
    /// begins with `/` stands alone and is a command; in a block it is text. @returns nullopt at the end of input.
    /// @throws Interrupted.
    std::optional<Message> read_message(bool multiline);

private:
    std::optional<std::string> read_line(const std::string& prompt);
    std::optional<std::string> read_plain_line();
    std::optional<Message> read_lines(bool multiline);
    std::string read_block(std::string text);

    Prompts prompts_;
    std::function<void(const std::string&)> show_;
    std::unique_ptr<LineEditor> editor_;
    std::string buffer_;
    bool at_end_ = false;
};

}  // namespace winnow::program
