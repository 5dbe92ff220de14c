// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/line_input.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "examples/winnow/interrupt.h"

namespace winnow::program {
namespace {

constexpr std::string_view kFence = "\"\"\"";

bool ends_with_backslash(const std::string& line) { return !line.empty() && line.back() == '\\'; }

}  // namespace

std::optional<std::string> LineInput::read_line(const std::string& prompt) {
    if (editor_) return editor_->read(prompt);
    show_(prompt);
    return read_plain_line();
}

std::optional<std::string> LineInput::read_plain_line() {
    std::size_t searched = 0;
    while (true) {
        const std::size_t end = buffer_.find('\n', searched);
        if (end != std::string::npos || (at_end_ && !buffer_.empty())) {
            std::string line = buffer_.substr(0, end);
            buffer_.erase(0, end == std::string::npos ? end : end + 1);
            if (!line.empty() && line.back() == '\r') line.pop_back();
            return line;
        }
        if (at_end_) return std::nullopt;
        searched = buffer_.size();
        pollfd sources[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
        poll(sources, 2, -1);
        throw_if_interrupted();
        if (sources[0].revents == 0) continue;
        char block[4096];
        const ssize_t n = read(STDIN_FILENO, block, sizeof block);
        if (n > 0) {
            buffer_.append(block, static_cast<std::size_t>(n));
        } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
            at_end_ = true;
        }
    }
}

std::string LineInput::read_block(std::string text) {
    text.erase(0, kFence.size());
    bool begins = text.empty();  // with the line after the fence
    while (true) {
        if (const std::size_t end = text.rfind(kFence);
            end != std::string::npos && end + kFence.size() == text.size()) {
            text.erase(end);
            return text;
        }
        const std::optional<std::string> line = read_line(prompts_.continuation);
        if (!line) return text;
        if (!std::exchange(begins, false)) text += '\n';
        text += *line;
    }
}

std::optional<LineInput::Message> LineInput::read_message(bool multiline) {
    std::optional<Message> message = read_lines(multiline);
    if (message && editor_) editor_->remember(message->text);
    return message;
}

std::optional<LineInput::Message> LineInput::read_lines(bool multiline) {
    const std::optional<std::string> first = read_line(prompts_.first);
    if (!first) return std::nullopt;
    if (first->starts_with(kFence)) return Message{read_block(*first)};
    if (first->starts_with("/")) return Message{*first, true};
    std::string text = *first;
    while (ends_with_backslash(text) != multiline) {
        if (!multiline) text.pop_back();
        const std::optional<std::string> line = read_line(prompts_.continuation);
        if (!line) return Message{text};
        text += '\n' + *line;
    }
    if (multiline) text.pop_back();
    return Message{text};
}

}  // namespace winnow::program
