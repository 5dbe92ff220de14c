// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/step_buffers.h"

#include <algorithm>

#include "runtime/vk/device.h"

namespace winnow {

StepBuffers::StepBuffers(vk::Device& device, const ModelShape& s, std::uint32_t n_splits) {
    using vk::BufferUse;
    const auto make = [&](const char* name, std::uint64_t bytes, BufferUse use = BufferUse::kDevice) {
        return vk::Buffer(device, name, std::max<std::uint64_t>(bytes, 16), use);
    };
    state = make("step_state", sizeof(StepState));
    state_upload = make("step_state_upload", sizeof(StepState), BufferUse::kUpload);
    x = make("x", s.n_embd * 4ull);
    act_embd = make("act_embd", activation_bytes(s.n_embd));
    query = make("query", s.q_dim() * 4ull);
    attended = make("attended", s.q_dim() * 4ull);
    act_attended = make("act_attended", activation_bytes(s.q_dim()));
    act_ff = make("act_ff", activation_bytes(s.n_ff));
    raw_product = make("raw_product", s.n_embd * 4ull);
    partials = make("partials", std::uint64_t{n_splits} * s.n_heads * (s.head_dim + 2) * 4);
    counters = make("counters", (s.n_kv_heads + 8) * 4ull);
    logits = make("logits", s.n_vocab * 4ull);
    maxima = make("maxima", (s.n_vocab / 32 + 64) * 4ull);
    threshold = make("threshold", 16);
    candidates = make("candidates", (s.n_vocab + 4096) * 8ull);
    counts = make("counts", 4096);
    ring = make("token_ring", (1 + WINNOW_TOKEN_RING) * 4ull, BufferUse::kReadback);
}

std::uint64_t StepBuffers::bytes() const {
    std::uint64_t sum = 0;
    for (const vk::Buffer* b : {&state, &state_upload, &x, &act_embd, &query, &attended, &act_attended, &act_ff,
                                &raw_product, &partials, &counters, &logits, &maxima, &threshold, &candidates, &counts,
                                &ring})
        sum += b->bytes();
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
