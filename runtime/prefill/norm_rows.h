// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// RMS norm of each row of a chunk. shaders/prefill/norm_rows.comp
class NormRows {
public:
    struct Config {
        std::uint32_t n = 0;
        bool add = false;  ///< adds the normed row to x instead of writing f16 rows
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange input;   ///< f32 [n_tokens, n]
        vk::BufferRange weight;  ///< f32 [n]
        vk::BufferRange halves;  ///< f16 [n_tokens, n], without add
        vk::BufferRange x;       ///< f32 [n_tokens, n], with add
    };
    NormRows(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const NormRowsPush& push) const;
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    std::uint32_t rows_per_group_ = 1;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
