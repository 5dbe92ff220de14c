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

/// Warns when a preset goes by roles of heads that no calibration has checked, or that failed.
void warn_of_unchecked_roles(const Options& options, const std::string& preset);

/// `--list-devices`
int list_devices_command();

}  // namespace winnow::program
