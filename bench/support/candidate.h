// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <string>

#include "bench/support/gpu_bench.h"

namespace winnow::bench {

using Record = std::function<void(vk::Recorder&, std::uint32_t)>;

/// A way to run a stage, to be timed against others of the same stage.
struct Candidate {
    std::string stage, label;
    std::uint64_t bytes = 0;
    std::uint32_t n_dispatches = 0;
    std::function<Record()> make;  ///< compiles the pipeline
    Record record;
    double microseconds = 1e30;
};

}  // namespace winnow::bench
