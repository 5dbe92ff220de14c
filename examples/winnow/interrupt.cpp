// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/interrupt.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

#include "runtime/io/whole_file.h"

namespace winnow::program {
namespace {

constexpr int kInterruptedStatus = 130;

std::atomic<bool> pending{false};
int wake_pipe[2] = {-1, -1};

static_assert(std::atomic<bool>::is_always_lock_free, "the handler may use only lock-free atomics");

void on_interrupt(int) {
    const int saved = errno;
    if (pending.exchange(true)) {
        remove_unfinished_files();
        _exit(kInterruptedStatus);
    }
    const char byte = 0;
    [[maybe_unused]] const ssize_t written = write(wake_pipe[1], &byte, 1);
    errno = saved;
}

void on_end(int number) {
    remove_unfinished_files();
    std::signal(number, SIG_DFL);
    raise(number);  // once the handler returns
}

// nohup has SIGHUP ignored, and that stays.
void end_on(int number) {
    struct sigaction action = {};
    if (sigaction(number, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) return;
    action = {};
    action.sa_handler = on_end;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, nullptr);
}

}  // namespace

void install_signal_handlers() {
    if (pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0) wake_pipe[0] = wake_pipe[1] = -1;
    struct sigaction action = {};
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;  // waiting for input polls the pipe; drivers need no EINTR
    sigaction(SIGINT, &action, nullptr);
    end_on(SIGTERM);
    end_on(SIGHUP);
    std::signal(SIGPIPE, SIG_IGN);
}

bool interrupted() noexcept { return pending.load(std::memory_order_relaxed); }

void clear_interrupt() noexcept {
    char drain[16];
    while (read(wake_pipe[0], drain, sizeof drain) > 0) {
    }
    pending.store(false);
}

void throw_if_interrupted() {
    if (interrupted()) throw Interrupted{};
}

int interrupt_fd() noexcept { return wake_pipe[0]; }

}  // namespace winnow::program
