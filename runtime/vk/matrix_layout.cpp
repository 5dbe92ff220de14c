// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/matrix_layout.h"

#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/vk/device.h"
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/vk/upload.h"

namespace winnow::vk {
namespace {

constexpr const char* kProbe = "matrix_layout";
constexpr std::uint32_t kLanes = 32, kElements = 8, kMatrices = 3, kValues = 256;

}  // namespace

unsigned expected_place(unsigned matrix, unsigned lane, unsigned element) {
    const unsigned g = lane / 4, t = lane % 4;
    const unsigned low = element & 1, second = element >> 1 & 1, third = element >> 2;
    const unsigned outer = g + 8 * third, inner = 2 * t + low + 8 * second;
    return matrix == 1 ? inner * 16 + outer : outer * 16 + inner;
}

std::vector<std::uint32_t> read_matrix_layout(Device& device) {
    std::vector<std::uint32_t> halves(kValues / 2), floats(kValues);
    for (std::uint32_t i = 0; i < kValues; ++i) {
        // Whole numbers up to 255 as halves: exponent and leading bits of the float's.
        const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(i));
        floats[i] = bits;
        const std::uint32_t half = i == 0 ? 0 : ((bits >> 23) - 112) << 10 | (bits >> 13 & 0x3ff);
        halves[i / 2] |= half << i % 2 * 16;
    }
    const Buffer half_values(device, "matrix_halves", 4 * halves.size(), BufferUse::kDevice);
    const Buffer float_values(device, "matrix_floats", 4 * floats.size(), BufferUse::kDevice);
    const Buffer places(device, "matrix_places", 4ull * kMatrices * kLanes * kElements, BufferUse::kDevice);
    Uploader uploader(device, 4 * floats.size());
    uploader.upload(half_values, std::as_bytes(std::span(halves)));
    uploader.upload(float_values, std::as_bytes(std::span(floats)));
    uploader.finish();
    const ComputePipeline pipeline(device, find_shader(kProbe), 3, 0, {}, kLanes);
    run_once(device, [&](Recorder& recorder) {
        const std::array<BufferRange, 3> buffers{half_values, float_values, places};
        recorder.dispatch(pipeline, buffers, {}, 1);
    });
    return read_back_as<std::uint32_t>(device, places);
}

bool has_known_matrix_layout(Device& device) {
    if (!device.prefers_matrices() || !has_shader(kProbe)) return false;
    const std::vector<std::uint32_t> found = read_matrix_layout(device);
    for (std::uint32_t i = 0; i < found.size(); ++i)
        if (found[i] != expected_place(i / (kLanes * kElements), i / kElements % kLanes, i % kElements)) return false;
    return true;
}

}  // namespace winnow::vk
