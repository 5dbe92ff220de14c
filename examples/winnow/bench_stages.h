// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "models/model.h"
#include "winnow/session.h"

namespace winnow::program {

/// One kind of stage of a decode step, over all layers.
struct StageRow {
    std::string stage;
    double microseconds = 0;
    std::uint32_t n_dispatches = 0;  ///< that wait for the one before
    std::uint64_t bytes = 0;         ///< weights, keys, values and indices read; 0 = not counted
    double gbps() const { return static_cast<double>(bytes) / (microseconds * 1e3); }
};

/// Bytes of weights that each stage of a step reads.
class StageWeights {
public:
    StageWeights() = default;
    explicit StageWeights(const ModelSource& model);
    std::uint64_t of(const std::string& stage) const;

private:
    std::uint64_t embed_ = 0, qkv_ = 0, output_ = 0, gate_up_ = 0, down_ = 0, logits_ = 0;
};

/// Times the stages of the step after what is cached, the best of a few; `report` says what
/// attention reads there. Empty when the device has no timestamps.
std::vector<StageRow> time_stages(Session& session, const StageWeights& weights, const SparseReport& report,
                                  KvType kv_type);

/// The sum of all rows, named "all".
StageRow total_of(const std::vector<StageRow>& rows);

}  // namespace winnow::program
