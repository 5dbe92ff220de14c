// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/progress.h"

#include <fmt/format.h>

#include <algorithm>

#include "examples/winnow/terminal.h"

namespace winnow::program {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPatience{300};
constexpr milliseconds kRedraw{100};
constexpr std::chrono::seconds kSettled{1};  // a rate that is measured for less jumps
constexpr std::uint64_t kBarWidth = 24;

}  // namespace

void announce_step(const std::string& text) {
    if (stderr_is_terminal()) log_info(text);
    else log_note(text);
}

Progress::Progress(std::string label, Unit unit)
    : label_(std::move(label)), unit_(unit), enabled_(stderr_is_terminal()) {}

void Progress::update(std::uint64_t done, std::uint64_t total) {
    const Clock::time_point now = Clock::now();
    if (begin_ == Clock::time_point{}) {  // what came before it, such as opening a device, is no part of the rate
        begin_ = now;
        n_before_ = done;
    }
    if (!enabled_ || total == 0 || now - start_ < kPatience || now - drawn_ < kRedraw) return;
    drawn_ = now;
    done = std::min(done, total);
    const double fraction = static_cast<double>(done) / static_cast<double>(total);
    const auto filled = static_cast<std::size_t>(fraction * kBarWidth);
    std::string line = fmt::format("\r\x1b[K{} [{}{}] {:3.0f} %", label_, std::string(filled, '#'),
                                   std::string(kBarWidth - filled, ' '), 100 * fraction);
    if (unit_ == Unit::kTokens) line += fmt::format("  {}/{} tokens", done, total);
    if (now - begin_ >= kSettled && done > n_before_) {
        const double per_second =
            static_cast<double>(done - n_before_) / std::chrono::duration<double>(now - begin_).count();
        if (unit_ == Unit::kBytes)
            line += per_second < 1e8 ? fmt::format("  {:.1f} MB/s", per_second / 1e6)
                                     : fmt::format("  {:.2f} GB/s", per_second / 1e9);
        line += fmt::format("  ETA {:.0f} s", static_cast<double>(total - done) / per_second);
    }
    write_err(line);
    shown_ = true;
}

void Progress::announce(const std::string& text) {
    if (!enabled_) return;
    write_err(fmt::format("\r\x1b[K{} ...", text));
    shown_ = true;
}

void Progress::clear() noexcept {
    if (shown_) write_err("\r\x1b[K");
    shown_ = false;
}

}  // namespace winnow::program
