// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>

#include "winnow/error.h"

namespace winnow::program {

/// Thrown when nobody reads standard output any more; main() exits with 1 and says nothing.
struct ClosedOutput {};

/// Standard output takes no more, as on a full disk: nothing that a chat could go on after.
struct OutputError : Error {
    using Error::Error;
};

/// Makes file descriptors 0, 1 and 2 safe to use: a closed one must not become the model file.
void secure_standard_streams();

struct LogStyle {
    int verbosity = 2;
    std::string colors = "auto";  ///< on, off, or auto: as text for people on standard error
    bool jsonl = false;           ///< one JSON object per line, which never has colours
};

/// `color` is on, off or auto (a terminal, and no NO_COLOR).
void configure_terminal(const std::string& color, const LogStyle& log);

/// From now on lines of the log go to this file too, information included whatever the verbosity.
/// What it held is lost. @throws Error(kIo).
void open_log_file(const std::string& path);

bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();

/// Writes results; unbuffered, so that an answer streams. @throws ClosedOutput or OutputError(kIo).
void write_out(std::string_view text);
/// Writes text for people; never fails.
void write_err(std::string_view text) noexcept;

/// `text` without what a terminal takes for commands: control characters other than \n and \t.
std::string without_controls(std::string_view text);

/// Text of a model for standard output: without_controls() where that is a terminal, else as it is.
std::string printable(std::string_view text);

/// `text` without control characters, dimmed for standard error, or marked as the user's on standard output, where
/// colours are on.
std::string dim_err(std::string_view text);
std::string input_prompt(std::string_view text);
/// Ends the colour that input_prompt() began, once the user has typed.
std::string input_end();

// One line each on standard error, if the verbosity asks for it, control characters left out.
void log_error(std::string_view message) noexcept;
void log_warning(std::string_view message);
void log_note(std::string_view message);  ///< what a flag did or could not do; shown as warnings are
void log_info(std::string_view message);

}  // namespace winnow::program
