// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/calibration/calibration_input.h"
#include "models/calibration/phase_clock.h"
#include "winnow/session.h"
#include "winnow/sparse.h"

namespace winnow {

struct CalibrateOptions {
    std::uint32_t index_dim = 0;  ///< 0 = a quarter of head_dim
    float full_share = -1;        ///< share of kv heads that keep everything; negative = found
    std::uint32_t target_ctx =
        0;               ///< tokens that moments are rotated to; 0 = what the model was trained for, 32768 at most
    bool quick = false;  ///< shorter texts, nothing held out, no safety check
    /// What is being done, and how far it is. May throw to stop.
    std::function<void(const std::string& step, std::uint64_t done, std::uint64_t total)> on_progress;
};

/// An index measured on text that no moment has seen.
struct IndexQuality {
    std::string name;
    std::uint32_t index_dim = 0;
    double mass = 0;    ///< of the selected 64 tokens over that of the best 64, mean over rows and query heads
    double recall = 0;  ///< of the best 64
    double retrieval_mass = 0, retrieval_recall = 0;  ///< of the 15 % of the query heads that find the needle best
};

/// What the filter of hisa costs its own index on that text. Budgets are the same shares of what each position sees as
/// the preset's are of kFilterContext tokens: a context below the coarse budget is not filtered at all.
struct FilterReport {
    double overlap = 0;      ///< tokens that both choose over those that either does; mean over kv heads and positions
    double least = 0;        ///< of the worst kv head
    double mass = 0;         ///< attention that the filtered choice holds over what the unfiltered one does
    double bytes_share = 0;  ///< index bytes over those without a filter, at kFilterContext tokens, f16 index keys
    std::uint32_t n_heads = 0;  ///< kv heads measured; 0 = nothing was held out
};
constexpr std::uint32_t kFilterContext = 32768;

struct CalibrationReport {
    std::uint32_t n_text = 0, n_random = 0, n_held_out = 0;  ///< tokens
    std::vector<IndexQuality> indexes;
    FilterReport filter;
    double captured = 0;          ///< true mass at an estimated 0.9, after the temperatures; mean over heads
    double dense_repeat = 0;      ///< perplexity of repeated random tokens, median of the seeds; 0 = not checked
    double roles_repeat = 0;      ///< the same with the roles
    std::uint32_t n_widened = 0;  ///< times that the safety check asked for more retrieval heads
    bool roles_safe = false;      ///< they were checked, and stood it
    bool has_structure = true;    ///< some head looks back at copies or at the needle, and the model copies
    double seconds = 0;
    std::vector<PhaseTime> phases;  ///< what the seconds went into
};

/// Tokens of a text without which nothing can be learnt in a context of n_ctx, and those that a calibration looks at at
/// most.
std::uint32_t least_calibration_tokens(std::uint32_t n_ctx);
std::uint32_t most_calibration_tokens(std::uint32_t n_ctx);

/// Learns from one text, with the session's own prefill: roles of heads, index projections, temperatures, reuse
/// anchors. The first tokens of the text give the moments, those after them judge. The session's cache is emptied and
/// its sparse attention left off.
/// @throws Error(kInvalidArgument) for a text that is too short, and whatever on_progress throws.
Calibration calibrate(Session& session, const CalibrationInput& input, const CalibrateOptions& options,
                      CalibrationReport& report);

/// Some pages of plain English for those who give no text.
std::string builtin_calibration_text();

}  // namespace winnow
