// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace winnow::program {

/// Says that a step of a long command begins. Where bars are seen it is information; in a pipe or a file, which have
/// none, a note, so that minutes do not pass in silence.
void announce_step(const std::string& text);

/// One line on standard error that shows how far a long step is; nothing when that is no terminal,
/// or when the step is over before anybody could read it.
class Progress {
public:
    enum class Unit { kBytes, kTokens, kNone };
    Progress(std::string label, Unit unit);
    ~Progress() { clear(); }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    void update(std::uint64_t done, std::uint64_t total);
    /// Shows a line without a bar at once, for a step that says nothing while it runs.
    void announce(const std::string& text);
    void clear() noexcept;

private:
    using Clock = std::chrono::steady_clock;
    std::string label_;
    Unit unit_;
    Clock::time_point start_ = Clock::now();
    Clock::time_point begin_{};   ///< of the first update
    std::uint64_t n_before_ = 0;  ///< done then
    Clock::time_point drawn_{};
    bool enabled_;
    bool shown_ = false;
};

}  // namespace winnow::program
