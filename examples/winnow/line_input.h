// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace winnow::program {

/// Lines of standard input that Ctrl-C can interrupt at once.
class LineInput {
public:
    /// Shows what stands before a line that continues a message; the first line's prompt is the
    /// caller's.
    explicit LineInput(std::function<void()> show_continuation) : show_continuation_(std::move(show_continuation)) {}

    /// One message: a line; with a `\` at its end the next line too; between lines of `"""`
    /// everything. In `multiline` mode it is the other way round: lines until one that ends in `\`.
    /// A line that begins with `/` stands alone. @returns nullopt at the end of input. @throws
    /// Interrupted.
    std::optional<std::string> read_message(bool multiline);

private:
    std::optional<std::string> read_line();
    std::string read_block(std::string text);

    std::function<void()> show_continuation_;
    std::string buffer_;
    bool at_end_ = false;
};

}  // namespace winnow::program
