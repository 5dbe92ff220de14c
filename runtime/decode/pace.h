// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>

namespace winnow {

/// How much of some work fits into a time, by the time that the last piece of it took. Grows slowly, shrinks at once.
class Pace {
public:
    /// @param seconds that a piece may take; first, least, most: items of a piece.
    Pace(double seconds, double first, double least, double most)
        : seconds_(seconds), least_(least), most_(std::max(most, least)), fitting_(std::clamp(first, least_, most_)) {}

    /// Items of the next piece.
    double fitting() const { return fitting_; }
    /// A piece of n items took so long.
    void note(double n, double seconds) {
        fitting_ = std::clamp(n * seconds_ / std::max(seconds, 1e-6), least_, std::min(most_, fitting_ * 2));
    }

private:
    double seconds_, least_, most_, fitting_;
};

}  // namespace winnow
