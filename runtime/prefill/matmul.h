// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// out[t] (+)= W a[t] for the tokens of a chunk. shaders/prefill/matmul.comp
class Matmul {
public:
    struct Config {
        std::uint32_t n_in = 0;
        WeightType type = WeightType::kF32;
        bool add = false;  ///< adds to `out` instead of overwriting it
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange weights;
        vk::BufferRange rows;  ///< f16 [.., n_in]
        vk::BufferRange out;   ///< f32 [n_tokens, out_stride]
    };
    Matmul(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const MatmulPush& push) const;
    /// @param n_rows rows of the matrix.
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_rows, std::uint64_t n_tokens);

private:
    Config config_;
    std::uint32_t tokens_ = 8;
    std::uint32_t rows_per_group_ = 0;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
