// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <histedit.h>

#include <memory>
#include <optional>
#include <string>

namespace winnow::program {

/// Lines typed at a terminal, by libedit: editing, a history that outlives the program, and pasted text taken whole,
/// with its line ends. At most one at a time.
class LineEditor {
public:
    /// Reads the history. @param history_file empty = none is kept.
    explicit LineEditor(std::string history_file);
    ~LineEditor();
    LineEditor(const LineEditor&) = delete;
    LineEditor& operator=(const LineEditor&) = delete;

    /// nullopt at the end of input. @throws Interrupted on Ctrl-C, at once.
    std::optional<std::string> read(const std::string& prompt);
    /// Adds to the history and to its file.
    void remember(const std::string& text);

private:
    struct EndEditor {
        void operator()(EditLine* editor) const { el_end(editor); }
    };
    struct EndHistory {
        void operator()(History* history) const { history_end(history); }
    };
    std::string history_file_;
    std::string prompt_;
    std::unique_ptr<History, EndHistory> history_;
    std::unique_ptr<EditLine, EndEditor> editor_;
};

/// $XDG_STATE_HOME/winnow/history, or below ~/.local/state; empty without a home.
std::string history_path();

}  // namespace winnow::program
