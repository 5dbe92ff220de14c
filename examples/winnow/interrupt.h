// SPDX-License-Identifier: Apache-2.0
#pragma once
namespace winnow::program {

/// Thrown when the user pressed Ctrl-C; main() exits with 130.
struct Interrupted {};

/// SIGINT sets a flag that work polls; a second one before the flag is cleared ends the process at
/// once with 130, for the waits that cannot poll. SIGTERM and SIGHUP end it as they always do. All of these leave no
/// half-written file behind. SIGPIPE is ignored: writing reports it instead.
void install_signal_handlers();

bool interrupted() noexcept;
void clear_interrupt() noexcept;
/// @throws Interrupted
void throw_if_interrupted();
/// Becomes readable on SIGINT, for poll() beside standard input.
int interrupt_fd() noexcept;

}  // namespace winnow::program
