// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/decode/attention_pipeline.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/prefill/rope_append.h"
#include "runtime/vk/device.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/upload.h"
#include "winnow/attention.h"

namespace winnow {
namespace {

constexpr std::uint32_t kAppendTokens = 256;  // staged at a time

KvConfig kv_config(const AttentionConfig& c) {
    KvConfig kv;
    kv.n_layers = 1;
    kv.n_kv_heads = c.n_kv_heads;
    kv.head_dim = c.head_dim;
    kv.capacity = c.capacity;
    kv.max_chunk = kAppendTokens;
    kv.type = c.kv_type;
    kv.roles.assign(c.n_kv_heads, {});
    return kv;
}

// The append stage of prefill without queries, norm, bias or rotation.
RopeAppend::Config append_config(const AttentionConfig& c) {
    RopeAppend::Config r;
    r.n_kv_heads = c.n_kv_heads;
    r.head_dim = c.head_dim;
    r.kv_type = c.kv_type;
    return r;
}

// Everything that could be refused later is refused before a device is opened.
const AttentionConfig& checked(const AttentionConfig& c, const SparsePolicy& policy) {
    if (c.n_kv_heads == 0 || c.n_heads == 0 || c.n_heads % c.n_kv_heads != 0)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("{} query heads do not divide over {} kv heads", c.n_heads, c.n_kv_heads));
    if (c.head_dim == 0 || c.head_dim % 8 != 0 || c.head_dim > 256)
        throw Error(ErrorCode::kInvalidArgument, fmt::format("head_dim {} is no multiple of 8 up to 256", c.head_dim));
    if (c.capacity == 0) throw Error(ErrorCode::kInvalidArgument, "a capacity of 0 tokens: give at least 1");
    policy.check(1, c.n_kv_heads);
    if (policy.has_local_heads())
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("policy '{}' has local heads, which this cache does not make: leave local_heads empty",
                                policy.name));
    const std::size_t n_maps = std::size_t{c.n_kv_heads} * 2 * policy.index_dim * c.head_dim;
    if (n_maps != 0 && (!policy.index_maps || policy.index_maps->size() != n_maps))
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("index maps [{}, 2, {}, {}] are needed and {} floats were given", c.n_kv_heads,
                                policy.index_dim, c.head_dim, policy.index_maps ? policy.index_maps->size() : 0));
    return c;
}

}  // namespace

struct SparseAttention::Impl {
    Impl(const DeviceOptions& options, const AttentionConfig& c, const SparsePolicy& policy)
        : config(checked(c, policy)),
          device(vk::Device::open(options)),
          n_splits(AttendDense::default_splits(*device, c.n_kv_heads, c.capacity, 64)),
          cache(*device, kv_config(c)),
          state(*device, "state", sizeof(StepState), vk::BufferUse::kShared),
          query(*device, "query", c.n_heads * c.head_dim * 4ull, vk::BufferUse::kShared),
          attended(*device, "attended", c.n_heads * c.head_dim * 4ull, vk::BufferUse::kReadback),
          partials(*device, "partials", attend_partial_bytes(c.n_heads, c.n_kv_heads, c.head_dim, n_splits),
                   vk::BufferUse::kDevice),
          counters(*device, "counters", c.n_kv_heads * 4ull, vk::BufferUse::kDevice),
          staged(*device, "staged", kAppendTokens * 2ull * c.n_kv_heads * c.head_dim * 4, vk::BufferUse::kShared),
          none(*device, "none", 16, vk::BufferUse::kDevice),
          pipeline(*device, {1, c.n_heads, c.n_kv_heads, c.head_dim}, cache,
                   {state, query, partials, counters, attended, none}, n_splits, policy,
                   policy.index_maps ? std::span<const float>(*policy.index_maps) : std::span<const float>(), false, {},
                   false),  // append() has added the index keys
          append_stage(*device, append_config(c)) {
        if (config.scale == 0) config.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
        std::memset(state.mapped(), 0, sizeof(StepState));
        vk::run_once(*device, [&](vk::Recorder& r) { r.fill(counters, 0); });
    }

    AttentionConfig config;
    std::unique_ptr<vk::Device> device;
    std::uint32_t n_splits;
    KvCache cache;
    vk::Buffer state, query, attended, partials, counters, staged, none;
    AttentionPipeline pipeline;
    RopeAppend append_stage;
    std::uint32_t n_tokens = 0;
    std::uint32_t n_at_step = 0;  ///< tokens at the last step; 0 = there was none
    bool last_sparse = false;
};

SparseAttention::SparseAttention(const DeviceOptions& device, const AttentionConfig& config, const SparsePolicy& policy)
    : impl_(std::make_unique<Impl>(device, config, policy)) {}

SparseAttention::~SparseAttention() = default;

void SparseAttention::append(std::span<const float> keys, std::span<const float> values) {
    Impl& i = *impl_;
    const std::size_t row = std::size_t{i.config.n_kv_heads} * i.config.head_dim;
    if (keys.size() != values.size() || keys.size() % row != 0)
        throw Error(ErrorCode::kInvalidArgument, fmt::format("{} key and {} value floats are no whole tokens of {}",
                                                             keys.size(), values.size(), row));
    const std::size_t n = keys.size() / row;
    if (n > i.config.capacity - i.n_tokens)
        throw Error(ErrorCode::kInvalidArgument, fmt::format("{} more tokens exceed the capacity of {}: {} are there",
                                                             n, i.config.capacity, i.n_tokens));
    const KvLayout& layout = i.cache.layout();
    for (std::size_t done = 0; done < n;) {
        const auto chunk = static_cast<std::uint32_t>(std::min<std::size_t>(kAppendTokens, n - done));
        auto* out = i.staged.mapped_as<float>();
        for (std::uint32_t t = 0; t < chunk; ++t) {  // [token][keys of all heads][values of all heads]
            std::copy_n(keys.data() + (done + t) * row, row, out + 2 * t * row);
            std::copy_n(values.data() + (done + t) * row, row, out + (2 * t + 1) * row);
        }
        vk::run_once(*i.device, [&](vk::Recorder& recorder) {
            i.append_stage.record(
                recorder, {i.staged, i.none, i.cache.tables(), i.none, i.none, i.cache.keys(0), i.cache.values(0)},
                {chunk, i.n_tokens, 0, 1, 0, layout.table_offset(0), layout.table_stride()});
            recorder.barrier();
            i.pipeline.record_prefill(recorder, 0, chunk, i.n_tokens);
        });
        i.n_tokens += chunk;
        done += chunk;
    }
}

std::span<const float> SparseAttention::step(std::span<const float> query) {
    Impl& i = *impl_;
    if (query.size() != std::size_t{i.config.n_heads} * i.config.head_dim)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("a query has {} floats, not {}", i.config.n_heads * i.config.head_dim, query.size()));
    if (i.n_tokens == 0) throw Error(ErrorCode::kInvalidArgument, "the cache is empty: append tokens first");
    auto* out = i.query.mapped_as<float>();
    for (std::size_t e = 0; e < query.size(); ++e) out[e] = query[e] * i.config.scale;
    i.state.mapped_as<StepState>()->position = i.n_tokens - 1;
    i.last_sparse = !i.pipeline.policy().is_dense() && i.n_tokens >= i.pipeline.policy().min_ctx;
    vk::run_once(*i.device, [&](vk::Recorder& r) { i.pipeline.record_decode(r, nullptr, 0, i.last_sparse); });
    i.n_at_step = i.n_tokens;
    return {i.attended.mapped_as<const float>(), query.size()};
}

std::vector<float> SparseAttention::audit() {
    Impl& i = *impl_;
    if (i.n_at_step == 0) throw Error(ErrorCode::kInvalidArgument, "nothing to audit: call step() first");
    if (!i.last_sparse || !i.pipeline.is_sparse(0)) return std::vector<float>(i.config.n_heads, 1.0f);
    vk::run_once(*i.device, [&](vk::Recorder& r) { i.pipeline.record_audit(r, 0); });
    std::vector<float> masses;
    for (const AttentionPipeline::Mass& m : i.pipeline.audit_records()) masses.push_back(m.mass);
    return masses;
}

std::vector<std::uint32_t> SparseAttention::attended() const {
    const Impl& i = *impl_;
    if (!i.last_sparse) return std::vector<std::uint32_t>(i.config.n_kv_heads, i.n_at_step);
    const auto counts = i.pipeline.attended_counts(i.n_at_step);
    return {counts.begin(), counts.end()};
}

std::vector<std::uint32_t> SparseAttention::selected(std::uint32_t kv_head) const {
    if (kv_head >= impl_->config.n_kv_heads)
        throw Error(ErrorCode::kInvalidArgument, fmt::format("kv head {} of {}", kv_head, impl_->config.n_kv_heads));
    return impl_->last_sparse ? impl_->pipeline.read_list(0, kv_head) : std::vector<std::uint32_t>();
}

std::uint32_t SparseAttention::n_tokens() const { return impl_->n_tokens; }

void SparseAttention::clear() {
    impl_->n_tokens = impl_->n_at_step = 0;
    impl_->last_sparse = false;
    impl_->pipeline.reset();
}

std::uint64_t SparseAttention::device_bytes() const { return impl_->device->allocated_bytes(); }
const SparsePolicy& SparseAttention::policy() const { return impl_->pipeline.policy(); }
const DeviceInfo& SparseAttention::device() const { return impl_->device->info(); }

SparsePolicy make_sparse_attention_policy(std::string_view preset, const SparseOverrides& overrides) {
    SparsePolicy p = make_preset(preset, {false}, overrides);
    if (p.needs_sidecar)
        throw Error(ErrorCode::kInvalidArgument, fmt::format("preset '{}' needs index projections", p.name));
    if (!p.levels.empty()) p.layers[0].kind = LayerKind::kSelect;  // there are no other layers to lend to or to spare
    if (overrides.min_ctx < 0) p.min_ctx = 0;
    return p;
}

}  // namespace winnow
