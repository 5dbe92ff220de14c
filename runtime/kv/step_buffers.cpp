// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/step_buffers.h"

#include <algorithm>
#include <vector>

#include "runtime/vk/device.h"

namespace winnow {

namespace {

using vk::BufferUse;

struct Entry {
    vk::Buffer StepBuffers::*buffer;
    const char* name;
    std::uint64_t bytes;
    BufferUse use;
};

// Every buffer of a step with its size: the one list that allocation and planning share.
std::vector<Entry> entries(const ModelShape& s, std::uint32_t n_splits) {
    using B = StepBuffers;
    const auto device = BufferUse::kDevice;
    return {
        {&B::state, "step_state", sizeof(StepState), device},
        {&B::state_upload, "step_state_upload", sizeof(StepState), BufferUse::kUpload},
        {&B::x, "x", s.n_embd * 4ull, device},
        {&B::act_embd, "act_embd", activation_bytes(s.n_embd), device},
        {&B::query, "query", s.q_dim() * 4ull, device},
        {&B::attended, "attended", s.q_dim() * 4ull, device},
        {&B::act_attended, "act_attended", activation_bytes(s.q_dim()), device},
        {&B::act_ff, "act_ff", activation_bytes(s.n_ff), device},
        {&B::raw_product, "raw_product", s.n_embd * 4ull, device},
        {&B::partials, "partials", attend_partial_bytes(s.n_heads, s.n_kv_heads, s.head_dim, n_splits), device},
        {&B::counters, "counters", (s.n_kv_heads + 8) * 4ull, device},
        {&B::logits, "logits", s.n_vocab * 4ull, device},
        {&B::maxima, "maxima", (s.n_vocab / 32 + 64) * 4ull, device},
        {&B::candidates, "candidates", (s.n_vocab + 4096) * 8ull, device},
        {&B::counts, "counts", 4096, device},
        {&B::ring, "token_ring", (1 + WINNOW_TOKEN_RING) * 4ull, BufferUse::kReadback},
    };
}

}  // namespace

StepBuffers::StepBuffers(vk::Device& device, const ModelShape& shape, std::uint32_t n_splits) {
    for (const Entry& e : entries(shape, n_splits)) this->*e.buffer = vk::Buffer(device, e.name, e.bytes, e.use);
}

std::uint64_t StepBuffers::bytes() const {
    std::uint64_t sum = 0;
    for (const Entry& e : entries({}, 0)) sum += (this->*e.buffer).bytes();
    return sum;
}

std::uint64_t StepBuffers::bytes_needed(const ModelShape& shape, std::uint32_t n_splits) {
    std::uint64_t sum = 0;
    for (const Entry& e : entries(shape, n_splits)) sum += e.bytes;
    return sum;
}

StepState make_step_state(const SamplingOptions& options, const std::vector<std::int32_t>& eog) {
    StepState s{};
    s.seed_low = static_cast<std::uint32_t>(options.seed);
    s.seed_high = static_cast<std::uint32_t>(options.seed >> 32);
    s.temperature = options.temperature;
    s.top_p = options.top_p;
    s.min_p = options.min_p;
    s.repeat_penalty = options.repeat_penalty;
    s.top_k = options.top_k;
    s.repeat_last_n = std::min<std::uint32_t>(options.repeat_last_n, WINNOW_MAX_RECENT);
    s.n_eog = static_cast<std::uint32_t>(std::min<std::size_t>(eog.size(), WINNOW_MAX_EOG));
    for (std::uint32_t i = 0; i < s.n_eog; ++i) s.eog[i] = static_cast<std::uint32_t>(eog[i]);
    return s;
}

}  // namespace winnow
