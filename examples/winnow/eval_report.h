// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <string>
#include <vector>

#include "winnow/session.h"

namespace winnow::program {

/// What `winnow eval` measured of one preset.
struct EvalRow {
    std::string preset;
    std::uint32_t n_ctx = 0;
    std::uint32_t n_probe = 0;       ///< tokens of a needle, copy or aggregation probe
    double nll = 0, nll_delta = 0;   ///< nats per token; against dense
    double kl_mean = 0, kl_p99 = 0;  ///< KL(dense || preset)
    double top1_agree = 0;
    double long_range_gain = 0;  ///< share of dense's gain over a 256-token window that is kept
    double copy_acc = 0, dense_copy_acc = 0;
    double needle_nll_delta = 0;  ///< mean over the needles, nats per answer token
    double aggregate_nll_delta = 0;
    double repeat_ppl = 0;                        ///< of repeated random tokens, median of three seeds
    double dense_repeat_ppl = 0;                  ///< the same of dense attention
    std::map<std::string, double> needle_deltas;  ///< by kind
    SparseReport report;
    double bytes_per_token = 0;
    std::uint64_t kv_bytes = 0;  ///< of a session opened with the preset
    double seconds = 0;
};

std::string eval_table(const std::vector<EvalRow>& rows);
std::string eval_json(const std::vector<EvalRow>& rows);
/// Captured mass and attended share per layer and head as a picture.
std::string eval_svg(const std::vector<EvalRow>& rows, std::uint32_t n_layers, std::uint32_t n_heads,
                     std::uint32_t n_kv_heads);

}  // namespace winnow::program
