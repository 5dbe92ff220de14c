// SPDX-License-Identifier: Apache-2.0
#include "winnow/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "models/model.h"
#include "runtime/decode/decode_loop.h"
#include "runtime/decode/prefill.h"
#include "runtime/vk/device.h"

namespace winnow {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

KvConfig kv_config(const ModelShape& shape, const SessionOptions& options, const ResolvedOptions& resolved) {
    KvConfig c;
    c.n_layers = shape.n_layers;
    c.n_kv_heads = shape.n_kv_heads;
    c.head_dim = shape.head_dim;
    c.capacity = resolved.n_ctx;
    c.max_chunk = resolved.n_chunk;
    c.type = options.kv_type;
    c.roles = model_roles(shape);
    return c;
}

class ModelSession final : public Session {
public:
    ModelSession(std::unique_ptr<vk::Device> device, ModelSource model, const SessionOptions& options)
        : device_(std::move(device)),
          model_(std::move(model)),
          resolved_(plan_session(*device_, model_, options)),
          weights_(upload_weights(*device_, model_.shape, model_.tensors, resolved_.n_ctx, options.on_load)),
          cache_(*device_, kv_config(model_.shape, options, resolved_)),
          step_buffers_(*device_, model_.shape, resolved_.n_splits),
          prefill_buffers_(*device_, model_.shape, resolved_.n_chunk),
          plan_(*device_, model_.shape, weights_, cache_, step_buffers_, resolved_.n_splits),
          loop_(*device_, plan_, step_buffers_, options.steps_in_flight),
          prefill_(*device_, model_.shape, weights_, cache_, prefill_buffers_, resolved_.n_chunk) {}

    const ModelShape& shape() const override { return model_.shape; }
    const DeviceInfo& device() const override { return device_->info(); }
    std::uint32_t n_ctx() const override { return resolved_.n_ctx; }
    const MemoryPlan& memory() const override { return resolved_.memory; }
    std::uint32_t n_dependent_dispatches() const override { return plan_.n_dependent_dispatches(); }
    std::uint32_t n_cached() const override { return static_cast<std::uint32_t>(tokens_.size()); }
    const std::vector<std::int32_t>& tokens() const override { return tokens_; }
    const SessionStats& stats() const override { return stats_; }

    std::uint32_t truncate(std::uint32_t n) override {
        finish();
        if (n >= tokens_.size()) return n_cached();
        // A ring has overwritten what lies more than its span behind the newest token: going back further than the
        // spare part of the ring would leave holes in the window, so the cache is then emptied.
        const KvLayout& layout = cache_.layout();
        for (std::uint32_t layer = 0; layer < model_.shape.n_layers && n > 0; ++layer) {
            const HeadLayout& head = layout.head(layer, 0);
            if (head.ring_blocks == 0 || tokens_high_ <= head.ring_blocks * layout.config().block_size) continue;
            const std::uint32_t kept = (head.ring_blocks - 1) * layout.config().block_size;
            if (n + kept < tokens_high_ + model_.shape.layers[layer].window) n = 0;
        }
        tokens_.resize(n);
        if (n == 0) tokens_high_ = 0;
        return n;
    }

    void prefill(std::span<const std::int32_t> tokens, const Progress& progress) override {
        run_prefill(tokens, progress, {});
    }

    void evaluate(std::span<const std::int32_t> tokens, const LogitRows& rows, const Progress& progress) override {
        run_prefill(tokens, progress, rows);
    }

    void start(std::span<const std::int32_t> prompt, const SamplingOptions& sampling,
               const std::vector<std::int32_t>& stop_tokens, std::uint32_t n_limit,
               const Progress& progress) override {
        finish();
        if (prompt.empty()) throw Error(ErrorCode::kInvalidArgument, "the prompt is empty: give at least one token");
        check_room(prompt.size());
        stats_ = {};
        const std::size_t wanted = n_cached() + prompt.size() - 1;
        run_prefill(prompt.first(prompt.size() - 1), progress, {});
        if (n_cached() < wanted) return;  // stopped by the caller
        pending_ = prompt.back();
        std::vector<std::int32_t> recent = tokens_;
        recent.push_back(pending_);
        DecodeLoop::Start at;
        at.token = static_cast<std::uint32_t>(pending_);
        at.position = n_cached();
        at.capacity = resolved_.n_ctx;
        at.n_limit = std::min(n_limit, resolved_.n_ctx - n_cached());
        at.rng_counter = n_cached();
        at.recent = recent;
        loop_.start(make_step_state(sampling, stop_tokens), at);
        started_ = true;
        begin_ = Clock::now();
    }

    std::optional<std::int32_t> next() override {
        if (!started_) return std::nullopt;
        const std::optional<std::int32_t> token = loop_.next();
        if (!token) return std::nullopt;
        push_token(pending_);
        pending_ = *token;
        ++stats_.n_generated;
        stats_.generate_seconds = seconds_since(begin_);
        return token;
    }

    void finish() override {
        if (!started_) return;
        started_ = false;
        loop_.finish();
    }

    void assume_cached(std::uint32_t n) override {
        truncate(0);
        if (n > resolved_.n_ctx)
            throw Error(ErrorCode::kInvalidArgument, fmt::format("{} tokens exceed the context of {}", n, resolved_.n_ctx));
        for (std::uint32_t layer = 0; layer < model_.shape.n_layers; ++layer) {
            vk::run_once(*device_, [&](vk::Recorder& recorder) {
                recorder.fill(cache_.keys(layer), 0x20102010);  // small values as f16 and as f32
                recorder.fill(cache_.values(layer), 0x20102010);
            });
        }
        tokens_.assign(n, 0);
        tokens_high_ = n;
    }

    std::vector<StageTime> time_stages() override {
        finish();
        check_room(1);
        DecodeLoop::Start at;
        at.position = n_cached();
        at.capacity = resolved_.n_ctx;
        at.n_limit = 8;
        SamplingOptions greedy;
        greedy.temperature = 0;
        std::vector<StageTime> times;
        loop_.start(make_step_state(greedy, {}), at);
        for (const vk::GpuTimer::Interval& interval : loop_.time_step())
            times.push_back({interval.label, interval.microseconds});
        return times;
    }

private:
    void check_token(std::int32_t id) const {
        if (id < 0 || static_cast<std::uint32_t>(id) >= model_.shape.n_vocab)
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("token id {} is outside the vocabulary of {}", id, model_.shape.n_vocab));
    }
    void check_room(std::size_t n) const {
        if (n_cached() + n > resolved_.n_ctx)
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("the prompt needs {} tokens but the context holds {}: use a larger -c or a "
                                    "shorter prompt",
                                    n_cached() + n, resolved_.n_ctx));
    }
    void push_token(std::int32_t id) {
        tokens_.push_back(id);
        tokens_high_ = std::max(tokens_high_, n_cached());
    }

    void run_prefill(std::span<const std::int32_t> tokens, const Progress& progress, const LogitRows& rows) {
        finish();
        for (const std::int32_t id : tokens) check_token(id);
        check_room(tokens.size());
        if (tokens.empty()) return;
        const Clock::time_point begin = Clock::now();
        const std::uint32_t done = prefill_.run(tokens, n_cached(), progress, rows);
        for (std::uint32_t i = 0; i < done; ++i) push_token(tokens[i]);
        stats_.n_prompt += done;
        stats_.prompt_seconds += seconds_since(begin);
    }

    std::unique_ptr<vk::Device> device_;
    ModelSource model_;
    ResolvedOptions resolved_;
    ModelWeights weights_;
    KvCache cache_;
    StepBuffers step_buffers_;
    PrefillBuffers prefill_buffers_;
    DecodePlan plan_;
    DecodeLoop loop_;
    Prefill prefill_;
    std::vector<std::int32_t> tokens_;  // in the cache
    std::uint32_t tokens_high_ = 0;     // most tokens that were ever in the cache since it was empty
    std::int32_t pending_ = 0;          // newest token, not yet in the cache
    bool started_ = false;
    Clock::time_point begin_;
    SessionStats stats_;
};

}  // namespace

ModelSource open_model(const std::string& path) {
    ModelSource model;
    model.file = std::make_unique<GgufFile>(GgufFile::open(path));
    model.shape = read_model_shape(*model.file);
    model.tensors = read_model_tensors(*model.file, model.shape);
    return model;
}

ResolvedOptions plan_session(const vk::Device& device, const ModelSource& model, const SessionOptions& options) {
    const ModelShape& shape = model.shape;
    const auto plan = [&](std::uint32_t n_ctx) {
        ResolvedOptions r;
        r.n_ctx = n_ctx;
        const std::uint32_t chunk = options.n_chunk != 0 ? options.n_chunk : (device.is_cpu() ? 64u : 512u);
        r.n_chunk = std::min(chunk, n_ctx);
        r.n_splits = AttendDense::default_splits(device, shape.n_kv_heads, n_ctx, 64);
        r.memory.weight_bytes =
            weight_bytes(shape, model.tensors, n_ctx,
                         std::min(device.limits().max_storage_buffer_range, device.limits().max_allocation_bytes));
        r.memory.kv_bytes = KvCache::bytes_needed(KvLayout(kv_config(shape, options, r)));
        r.memory.scratch_bytes =
            StepBuffers::bytes_needed(shape, r.n_splits) + PrefillBuffers::bytes_needed(shape, r.n_chunk);
        return r;
    };
    const std::uint64_t budget = device.info().memory_bytes / 20 * 19;
    const auto fits = [&](std::uint32_t n_ctx) {
        return plan(n_ctx).memory.total_bytes() <= budget &&
               KvLayout(kv_config(shape, options, plan(n_ctx))).largest_pool_bytes() <=
                   std::min(device.limits().max_storage_buffer_range, device.limits().max_allocation_bytes);
    };
    // Largest context that fits, in steps of 64 tokens.
    const auto largest = [&] {
        std::uint32_t low = 0, high = shape.n_ctx_train / 64;
        while (low < high) {
            const std::uint32_t middle = (low + high + 1) / 2;
            if (fits(middle * 64)) low = middle;
            else high = middle - 1;
        }
        return low * 64;
    };
    if (options.n_ctx > shape.n_ctx_train)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("-c {} is more than the {} tokens that this model was trained for", options.n_ctx,
                                shape.n_ctx_train));
    const std::uint32_t wanted = options.n_ctx != 0 ? options.n_ctx : shape.n_ctx_train;
    if (fits(wanted)) return plan(wanted);
    const std::uint32_t most = largest();
    if (options.n_ctx == 0 && most > 0) return plan(most);
    const MemoryPlan memory = plan(wanted).memory;
    throw Error(ErrorCode::kOutOfMemory,
                fmt::format("{} tokens need {} MiB (weights {}, cache {}, scratch {}) but '{}' offers {} MiB: {}", wanted,
                            memory.total_bytes() >> 20, memory.weight_bytes >> 20, memory.kv_bytes >> 20,
                            memory.scratch_bytes >> 20, device.info().name, budget >> 20,
                            most > 0 ? fmt::format("use -c {} or less", most) : "use a smaller model"));
}

std::unique_ptr<Session> make_session(std::unique_ptr<vk::Device> device, ModelSource model,
                                      const SessionOptions& options) {
    return std::make_unique<ModelSession>(std::move(device), std::move(model), options);
}

std::unique_ptr<Session> Session::open(const std::string& model_path, const SessionOptions& options) {
    ModelSource model = open_model(model_path);  // a bad file is reported before any device is touched
    return make_session(vk::Device::open(options.device), std::move(model), options);
}

}  // namespace winnow
