// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// act(gate) * up of each row of a chunk. shaders/prefill/gate_rows.comp
class GateRows {
public:
    struct Config {
        std::uint32_t n_ff = 0;
        Activation activation = Activation::kSilu;
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange gate_up;  ///< f32 [n_tokens, 2, n_ff]
        vk::BufferRange halves;   ///< f16 [n_tokens, n_ff]
    };
    GateRows(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const GateRowsPush& push) const;
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
