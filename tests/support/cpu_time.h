// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <ctime>

namespace winnow::test {

/// Of this thread: other programs may keep the machine busy.
inline double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// Most seconds for what takes about two, optimised; without, at least it is not quadratic.
#ifdef NDEBUG
constexpr double kMostSeconds = 2;
#else
constexpr double kMostSeconds = 60;
#endif

}  // namespace winnow::test
