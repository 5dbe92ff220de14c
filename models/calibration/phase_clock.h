// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

namespace winnow {

/// Wall time of a step of a calibration.
struct PhaseTime {
    std::string name;
    double seconds = 0;
};

/// Where the time of a calibration goes. Phases may come again: their times add up.
class PhaseClock {
public:
    explicit PhaseClock(std::vector<PhaseTime>& times) : times_(times) {}
    ~PhaseClock() { stop(); }
    PhaseClock(const PhaseClock&) = delete;
    PhaseClock& operator=(const PhaseClock&) = delete;

    /// Ends the phase that runs. @returns its name, to come back to.
    std::string enter(const std::string& phase);
    void stop();

private:
    std::vector<PhaseTime>& times_;
    std::string phase_;
    double began_ = 0;
};

}  // namespace winnow
