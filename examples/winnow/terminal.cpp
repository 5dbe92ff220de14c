// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/terminal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "winnow/error.h"

namespace winnow::program {
namespace {

constexpr const char* kDim = "\x1b[2m";
constexpr const char* kRed = "\x1b[31m";
constexpr const char* kYellow = "\x1b[33m";
constexpr const char* kGreen = "\x1b[1;32m";
constexpr const char* kPlain = "\x1b[0m";

bool color_out = false;
bool color_err = false;
bool color_log = false;
LogStyle style;
int log_fd = -1;

// Returns 0, or the errno that stopped it.
int write_all(int fd, std::string_view text) noexcept {
    while (!text.empty()) {
        const ssize_t n = write(fd, text.data(), text.size());
        if (n >= 0) {
            text.remove_prefix(static_cast<std::size_t>(n));
        } else if (errno == EAGAIN) {
            pollfd ready = {fd, POLLOUT, 0};
            poll(&ready, 1, -1);
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

std::string json_line(std::string_view kind, const std::string& message) {
    char time[32];
    const std::time_t now = std::time(nullptr);
    std::tm utc = {};
    gmtime_r(&now, &utc);
    const std::size_t n = std::strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%SZ", &utc);
    const nlohmann::ordered_json line = {{"time", std::string(time, n)}, {"level", kind}, {"message", message}};
    return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

// `level` is the verbosity that shows the line.
void log_line(int level, std::string_view kind, std::string_view message) noexcept {
    constexpr int kFileLevel = 3;
    const bool to_file = log_fd >= 0 && level <= std::max(style.verbosity, kFileLevel);
    if (style.verbosity < level && !to_file) return;
    try {
        // Names and values out of a file, and texts of a model, stand in messages.
        std::string text(message);
        for (char& c : text) {
            if (c == '\n' || c == '\r' || c == '\t') c = ' ';
        }
        text = without_controls(text);
        const std::string mark = kind == "information" ? "" : fmt::format("{}: ", kind);
        const std::string line = style.jsonl ? json_line(kind, text) : fmt::format("winnow: {}{}\n", mark, text);
        const char* color = kind == "error" ? kRed : kind == "warning" ? kYellow : nullptr;
        const bool colored = color_log && !style.jsonl && color != nullptr;
        if (style.verbosity >= level)
            write_err(colored ? fmt::format("{}winnow: {}{}{}\n", color, mark, kPlain, text) : line);
        if (to_file) write_all(log_fd, line);
    } catch (...) {
        write_err("winnow: error: out of host memory\n");
    }
}

}  // namespace

void secure_standard_streams() {
    for (int fd = 0; fd < 3; ++fd) {
        if (fcntl(fd, F_GETFD) != -1) continue;
        // open() takes the lowest free number, which is fd. Standard output is opened for reading
        // only, so that writing to it still fails.
        if (open("/dev/null", fd == 2 ? O_WRONLY : O_RDONLY) != fd) return;
    }
}

void configure_terminal(const std::string& color, const LogStyle& log) {
    style = log;
    const char* no_color = std::getenv("NO_COLOR");
    const bool allowed = color == "auto" && (no_color == nullptr || *no_color == '\0');
    color_out = color == "on" || (allowed && stdout_is_terminal());
    color_err = color == "on" || (allowed && stderr_is_terminal());
    color_log = log.colors == "on" || (log.colors == "auto" && color_err);
}

void open_log_file(const std::string& path) {
    log_fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (log_fd < 0) {
        throw Error(ErrorCode::kIo,
                    fmt::format("cannot write '{}': {}; give another --log-file", path, std::strerror(errno)));
    }
}

bool stdin_is_terminal() { return isatty(STDIN_FILENO) == 1; }
bool stdout_is_terminal() { return isatty(STDOUT_FILENO) == 1; }
bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }

void write_out(std::string_view text) {
    const int error = write_all(STDOUT_FILENO, text);
    if (error == 0) return;
    if (error == EPIPE || error == EBADF) throw ClosedOutput{};
    throw OutputError(ErrorCode::kIo,
                      fmt::format("writing to standard output failed: {}; free some space or send it elsewhere",
                                  std::strerror(error)));
}

void write_err(std::string_view text) noexcept { write_all(STDERR_FILENO, text); }

std::string without_controls(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
        if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {
            ++i;  // C1, as UTF-8 spells it
        } else if ((byte >= 0x20 && byte != 0x7f) || byte == '\n' || byte == '\t') {
            out += text[i];
        }
    }
    return out;
}

std::string printable(std::string_view text) {
    return stdout_is_terminal() ? without_controls(text) : std::string(text);
}

std::string dim_err(std::string_view text) {
    const std::string shown = without_controls(text);
    return color_err ? fmt::format("{}{}{}", kDim, shown, kPlain) : shown;
}

std::string input_prompt(std::string_view text) {
    return color_out ? fmt::format("{}{}", kGreen, text) : std::string(text);
}

std::string input_end() { return color_out ? kPlain : ""; }

void log_error(std::string_view message) noexcept { log_line(1, "error", message); }

void log_warning(std::string_view message) { log_line(2, "warning", message); }

void log_note(std::string_view message) { log_line(2, "note", message); }

void log_info(std::string_view message) { log_line(3, "information", message); }

}  // namespace winnow::program
