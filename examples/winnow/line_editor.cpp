// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/line_editor.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <string_view>

#include "examples/winnow/interrupt.h"
#include "examples/winnow/terminal.h"

namespace winnow::program {
namespace {

constexpr int kHistoryEntries = 1000;
constexpr wchar_t kLiteral = L'\1';  // around what a prompt sends that takes no column
constexpr std::string_view kPasteOn = "\x1b[?2004h", kPasteOff = "\x1b[?2004l";

// 1, or 0 at the end, or -1 when Ctrl-C came.
int read_byte(unsigned char& byte) {
    while (true) {
        pollfd sources[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
        poll(sources, 2, -1);
        if (interrupted()) return -1;
        if (sources[0].revents == 0) continue;
        const ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n > 0) return 1;
        if (n == 0 || (errno != EINTR && errno != EAGAIN)) return 0;
    }
}

// libedit's own reader would not see Ctrl-C, and takes UTF-8 only where the locale does.
int read_character(EditLine*, wchar_t* character) {
    unsigned char byte = 0;
    if (const int got = read_byte(byte); got != 1) return got;
    const int n_more = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : byte >= 0xc0 ? 1 : 0;
    auto code = static_cast<std::uint32_t>(n_more == 0 ? byte : byte & (0x3f >> n_more));
    for (int i = 0; i < n_more; ++i) {
        if (const int got = read_byte(byte); got != 1) return got;
        code = code << 6 | (byte & 0x3fu);
    }
    *character = static_cast<wchar_t>(code);
    return 1;
}

// Between ESC [200~ and ESC [201~ nothing is a command.
unsigned char insert_paste(EditLine* editor, int) {
    static constexpr std::string_view kEnd = "\x1b[201~";
    std::string text;
    while (!text.ends_with(kEnd)) {
        unsigned char byte = 0;
        const int got = read_byte(byte);
        if (got != 1) return got == 0 ? CC_EOF : CC_ERROR;
        text += static_cast<char>(byte);
    }
    text.resize(text.size() - kEnd.size());
    for (char& c : text)
        if (c == '\r') c = '\n';
    text = without_controls(text);
    // What ends the clipboard's text would end the message out of sight.
    while (!text.empty() && text.back() == '\n') text.pop_back();
    if (!text.empty() && el_insertstr(editor, text.c_str()) != 0) return CC_ERROR;
    return CC_REFRESH;
}

History* new_history() {
    History* history = history_init();
    if (history == nullptr) throw std::bad_alloc();
    return history;
}

void bind(EditLine* editor, const char* keys, const char* function) {
    el_set(editor, EL_BIND, keys, function, nullptr);
}

}  // namespace

std::string history_path() {
    const char* state = std::getenv("XDG_STATE_HOME");
    if (state != nullptr && state[0] == '/') return std::string(state) + "/winnow/history";
    const char* home = std::getenv("HOME");
    return home != nullptr && *home != '\0' ? std::string(home) + "/.local/state/winnow/history" : std::string();
}

LineEditor::LineEditor(std::string history_file) : history_file_(std::move(history_file)) {
    // For characters alone: numbers stay as they are.
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX < 3) std::setlocale(LC_CTYPE, "C.UTF-8");
    history_.reset(new_history());
    HistEvent event;
    history(history_.get(), &event, H_SETSIZE, kHistoryEntries);
    history(history_.get(), &event, H_SETUNIQUE, 1);
    if (!history_file_.empty()) {
        const int n_read = history(history_.get(), &event, H_LOAD, history_file_.c_str());
        // The file grows by a line for each message: cut it down to what was kept.
        if (n_read > 2 * kHistoryEntries) history(history_.get(), &event, H_SAVE, history_file_.c_str());
    }

    editor_.reset(el_init("winnow", stdin, stdout, stderr));
    EditLine* editor = editor_.get();
    if (editor == nullptr) throw std::bad_alloc();
    el_set(editor, EL_SIGNAL, 0);
    el_set(editor, EL_CLIENTDATA, this);
    el_set(editor, EL_GETCFN, &read_character);
    const auto prompt = [](EditLine* asking) {
        void* self = nullptr;
        el_get(asking, EL_CLIENTDATA, &self);
        return static_cast<LineEditor*>(self)->prompt_.data();
    };
    el_set(editor, EL_PROMPT_ESC, static_cast<char* (*)(EditLine*)>(prompt), kLiteral);
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_HIST, history, history_.get());
    el_set(editor, EL_ADDFN, "winnow-paste", "insert pasted text", &insert_paste);
    bind(editor, "\\e[200~", "winnow-paste");
    for (const char* home : {"\\e[H", "\\eOH", "\\e[1~"}) bind(editor, home, "ed-move-to-beg");
    for (const char* end : {"\\e[F", "\\eOF", "\\e[4~"}) bind(editor, end, "ed-move-to-end");
    bind(editor, "\\e[3~", "ed-delete-next-char");
    bind(editor, "\\e[1;5C", "em-next-word");
    bind(editor, "\\e[1;5D", "ed-prev-word");
    bind(editor, "^W", "ed-delete-prev-word");
    el_source(editor, nullptr);  // ~/.editrc
}

LineEditor::~LineEditor() = default;

std::optional<std::string> LineEditor::read(const std::string& prompt) {
    const std::string color = input_prompt("");
    const std::string mark(1, static_cast<char>(kLiteral));
    prompt_ = color.empty() ? prompt : mark + color + mark + prompt;
    el_resize(editor_.get());
    write_out(kPasteOn);
    el_set(editor_.get(), EL_PREP_TERM, 1);  // before the prompt says that keys may be typed
    int n = 0;
    const char* line = el_gets(editor_.get(), &n);
    write_out(kPasteOff);
    throw_if_interrupted();
    if (line == nullptr || n <= 0) return std::nullopt;
    std::string text(line, static_cast<std::size_t>(n));
    if (text.ends_with('\n')) text.pop_back();
    return text;
}

void LineEditor::remember(const std::string& text) {
    if (text.find_first_not_of(" \t\n") == std::string::npos) return;
    HistEvent event;
    const bool repeated = history(history_.get(), &event, H_FIRST) != -1 && text == event.str;
    history(history_.get(), &event, H_ENTER, text.c_str());
    if (history_file_.empty() || repeated) return;
    // A history of one entry: H_NSAVE_FP counts one more than it is told, and so writes the entry before once again.
    const std::unique_ptr<History, EndHistory> one(new_history());
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(history_file_).parent_path(), ignored);
    const mode_t before = umask(077);  // what was asked is nobody else's business
    std::FILE* file = std::fopen(history_file_.c_str(), "ae");
    umask(before);
    if (file == nullptr) return;
    std::fseek(file, 0, SEEK_END);  // the mark of the format stands at the beginning only
    history(one.get(), &event, H_SETSIZE, 1);
    history(one.get(), &event, H_ENTER, text.c_str());
    history(one.get(), &event, H_SAVE_FP, file);
    std::fclose(file);
}

}  // namespace winnow::program
