// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "examples/winnow/options.h"

namespace winnow::program {

// The subcommands. Each returns the exit status of success or throws Error, Interrupted or
// ClosedOutput.
int run_chat(const Options& options);
int run_generate(const Options& options);
int run_tokenize(const Options& options);
int run_perplexity(const Options& options);
int run_info(const Options& options);
int run_bench(const Options& options);
int run_eval(const Options& options);
int run_calibrate(const Options& options);

/// With `--sparse auto` and a model that has no calibration yet: makes a quick one from a built-in
/// text and caches it.
void calibrate_for_auto(const Options& options);

/// What calibrate_for_auto() would do with these options, in one line; it does none of it.
void announce_calibration_for_auto(const Options& options);

/// Warns when a preset goes by a quick calibration, or by roles of heads that none has checked, or that failed.
void warn_of_weak_calibration(const Options& options, const std::string& preset);

/// `--list-devices`. @throws Error(kNoDevice), also for a -dev that names none of them.
int list_devices_command(const Options& options);

}  // namespace winnow::program
