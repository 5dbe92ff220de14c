// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_gguf.h"

namespace winnow::test {

/// What a run of the program left behind.
struct Outcome {
    int status = -1;  ///< exit status; 128 + signal when one killed it
    std::string out;
    std::string err;
};

/// The built `winnow`, running, with pipes or a terminal for its three streams.
class Program {
public:
    struct Options {
        std::map<std::string, std::string> environment;
        bool close_output = false;  ///< starts it with no standard output at all
        bool terminal = false;      ///< all three streams are one terminal, whose text lands in Outcome::out
        std::string program;        ///< another program; empty = winnow
    };

    explicit Program(const std::vector<std::string>& arguments) : Program(arguments, Options{}) {}
    Program(const std::vector<std::string>& arguments, const Options& options) {
        int in[2], out[2] = {-1, -1}, err[2] = {-1, -1};
        if (options.terminal) open_terminal(in, out);
        else if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) std::abort();
        std::vector<std::string> words = {options.program.empty() ? std::string(WINNOW_BIN) + "/winnow"
                                                                  : options.program};
        words.insert(words.end(), arguments.begin(), arguments.end());
        std::vector<char*> argv;
        for (std::string& word : words) argv.push_back(word.data());
        argv.push_back(nullptr);
        pid_ = fork();
        if (pid_ == 0) {
            if (options.terminal) {
                setsid();
                ioctl(in[0], TIOCSCTTY, 0);
                dup2(in[0], STDERR_FILENO);
            }
            dup2(in[0], STDIN_FILENO);
            if (options.close_output) close(STDOUT_FILENO);
            else dup2(out[1], STDOUT_FILENO);
            if (!options.terminal) dup2(err[1], STDERR_FILENO);
            for (const auto& [name, value] : options.environment) setenv(name.c_str(), value.c_str(), 1);
            execv(argv[0], argv.data());
            _exit(127);
        }
        close(in[0]);
        close(out[1]);
        if (err[1] >= 0) close(err[1]);
        in_ = in[1];
        out_ = out[0];
        err_ = err[0];
        ::signal(SIGPIPE, SIG_IGN);
    }
    ~Program() {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
        for (const int fd : {in_, out_, err_}) {
            if (fd >= 0) close(fd);
        }
    }
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    void type(const std::string& text) {
        if (write(in_, text.data(), text.size()) < 0) ADD_FAILURE() << "the program reads no more";
    }
    void end_input() {
        if (in_ >= 0) close(in_);
        in_ = -1;
    }
    void stop_reading_output() {
        close(out_);
        out_ = -1;
    }
    void send(int signal_number) { kill(pid_, signal_number); }
    bool has_ended() const {
        siginfo_t info = {};
        return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_;
    }

    /// Reads until standard output contains `text` or is at its end. @returns whether it came.
    bool wait_for_output(const std::string& text) {
        while (outcome_.out.find(text) == std::string::npos) {
            if (!pump()) return false;
        }
        return true;
    }
    /// Forgets what standard output held so far, for the next wait_for_output().
    std::string take_output() { return std::exchange(outcome_.out, std::string()); }
    /// Reads until standard output has grown.
    bool wait_for_more_output() {
        const std::size_t n = outcome_.out.size();
        while (outcome_.out.size() == n) {
            if (!pump()) return false;
        }
        return true;
    }
    /// Reads to the end and waits for the program.
    Outcome finish() {
        end_input();
        while (pump()) {
        }
        int status = 0;
        waitpid(pid_, &status, 0);
        pid_ = -1;
        outcome_.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        return outcome_;
    }

private:
    // Both ends of a terminal, twice: each is closed when the program is done with it.
    static void open_terminal(int (&in)[2], int (&out)[2]) {
        winsize size = {};
        size.ws_row = 24;
        size.ws_col = 100;
        if (openpty(&in[1], &in[0], nullptr, nullptr, &size) != 0) std::abort();
        out[0] = fcntl(in[1], F_DUPFD_CLOEXEC, 0);
        out[1] = fcntl(in[0], F_DUPFD_CLOEXEC, 0);
        for (const int fd : in) fcntl(fd, F_SETFD, FD_CLOEXEC);
    }

    // Takes what there is on either stream; false at the end of both, or after minutes of silence.
    bool pump() {
        pollfd sources[2] = {{out_, POLLIN, 0}, {err_, POLLIN, 0}};
        if (out_ < 0 && err_ < 0) return false;
        constexpr int kPatienceMs = 300000;  // a busy machine on a software driver
        if (poll(sources, 2, kPatienceMs) <= 0) {
            ADD_FAILURE() << "the program is silent; so far: " << outcome_.out << outcome_.err;
            kill(pid_, SIGKILL);
            return false;
        }
        read_into(sources[0], out_, outcome_.out);
        read_into(sources[1], err_, outcome_.err);
        return true;
    }
    static void read_into(const pollfd& source, int& fd, std::string& text) {
        if (fd < 0 || source.revents == 0) return;
        char block[65536];
        const ssize_t n = read(fd, block, sizeof block);
        if (n > 0) {
            text.append(block, static_cast<std::size_t>(n));
        } else {
            close(fd);
            fd = -1;
        }
    }

    pid_t pid_ = -1;
    int in_ = -1;
    int out_ = -1;
    int err_ = -1;
    Outcome outcome_;
};

inline Outcome run_program(const std::vector<std::string>& arguments, const std::string& input = "",
                           const Program::Options& options = {}) {
    Program program(arguments, options);
    if (!input.empty()) program.type(input);
    return program.finish();
}

/// Lines of standard error that winnow wrote itself; drivers may write there too. Not the note of a first start: it
/// depends on what ran here before.
inline std::vector<std::string> own_lines(const std::string& text, const std::string& prefix = "winnow: ") {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) {
        if (line.starts_with(prefix) && !line.starts_with("winnow: note: compiling shaders")) lines.push_back(line);
    }
    return lines;
}

/// The whole failure is one line that starts with "winnow: error: " and contains `part`.
inline void expect_error(const Outcome& outcome, int status, const std::string& part) {
    EXPECT_EQ(outcome.status, status) << outcome.out << outcome.err;
    const std::vector<std::string> lines = own_lines(outcome.err, "winnow: error: ");
    ASSERT_EQ(lines.size(), 1u) << outcome.err;
    EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
}

inline bool has_device() {
    static const bool found = run_program({"--list-devices"}).status == 0;
    return found;
}

/// Whether the device is lavapipe: slow enough for every progress bar, and one that makes lists where a GPU has
/// `select_attend`.
inline bool on_software_driver() {
    static const bool found = run_program({"--list-devices"}).out.find("llvmpipe") != std::string::npos;
    return found;
}

/// The folder of the test program, with models made for it.
class Files : public TemporaryFolder {
public:
    static Files& shared() {
        static Files files;
        return files;
    }

    const std::string& tiny() const { return tiny_; }              ///< llama, context 256
    const std::string& tiny_gemma() const { return tiny_gemma_; }  ///< gemma3 with windows
    /// Long enough that reading a prompt and answering take seconds; made at the first call.
    const std::string& slow() {
        if (slow_.empty()) {
            TinyOptions options;
            options.n_ctx = 16384;
            options.n_layers = 8;
            options.n_embd = 256;
            options.n_ff = 512;
            slow_ = make("slow.gguf", options);
        }
        return slow_;
    }
    const std::string& vocabulary() const { return vocabulary_; }  ///< no tensors
    const std::string& tiny_bytes() const { return tiny_bytes_; }

private:
    std::string make(const char* name, const TinyOptions& options) const {
        const std::vector<std::byte> bytes = make_tiny_gguf(options);
        return write(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    Files() {
        TinyOptions gemma;
        gemma.architecture = "gemma3";
        TinyOptions vocabulary;
        vocabulary.vocabulary_only = true;
        tiny_ = make("tiny.gguf", {});
        tiny_gemma_ = make("tiny-gemma.gguf", gemma);
        vocabulary_ = make("vocabulary.gguf", vocabulary);
        tiny_bytes_ = read("tiny.gguf");
    }

    std::string tiny_;
    std::string tiny_gemma_;
    std::string vocabulary_;
    std::string slow_;
    std::string tiny_bytes_;
};

/// Tests that need a model on a device.
class OnDevice : public ::testing::Test {
protected:
    void SetUp() override {
        if (!has_device()) GTEST_SKIP() << "no Vulkan device";
    }
};

}  // namespace winnow::test
