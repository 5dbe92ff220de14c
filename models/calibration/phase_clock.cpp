// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/phase_clock.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace winnow {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

std::string PhaseClock::enter(const std::string& phase) {
    stop();
    began_ = now();
    return std::exchange(phase_, phase);
}

void PhaseClock::stop() {
    if (phase_.empty()) return;
    auto at = std::find_if(times_.begin(), times_.end(), [this](const PhaseTime& t) { return t.name == phase_; });
    if (at == times_.end()) at = times_.insert(at, PhaseTime{phase_, 0});
    at->seconds += now() - began_;
    began_ = now();
}

}  // namespace winnow
