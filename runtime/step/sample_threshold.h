// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"

namespace winnow {

/// Lower bound of the top_k-th largest logit. shaders/step/sample_threshold.comp
class SampleThreshold {
public:
    struct Buffers {
        vk::BufferRange state;
        vk::BufferRange maxima;     ///< f32 [n_maxima]
        vk::BufferRange threshold;  ///< f32 [1]
    };
    explicit SampleThreshold(vk::Device& device);
    void record(vk::Recorder& recorder, const Buffers& buffers, const SamplePush& push) const;
    static std::uint64_t bytes_moved(std::uint32_t n_maxima) { return n_maxima * 4ull; }

private:
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
