// SPDX-License-Identifier: Apache-2.0
#include "winnow/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "models/cached_tokens.h"
#include "models/kv_pools.h"
#include "models/model.h"
#include "models/session_cache.h"
#include "models/session_plan.h"
#include "models/sidecar.h"
#include "models/sparse_engine.h"
#include "runtime/decode/prefill.h"
#include "runtime/vk/device.h"
#include "runtime/vk/upload.h"
#include "shaders/common/interface.h"

namespace winnow {
namespace {

using Clock = std::chrono::steady_clock;
static_assert(kMostRepeatTokens == WINNOW_MAX_RECENT);
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

class ModelSession final : public Session {
public:
    ModelSession(std::unique_ptr<vk::Device> device, ModelSource model, const SessionOptions& options)
        : device_(std::move(device)),
          model_(std::move(model)),
          options_(options),
          policy_(resolve_policy(model_.shape, options_.sparse = with_calibration(model_, options.sparse),
                                 options.kv_type)),
          resolved_(plan_session(*device_, model_, options_)),
          weights_(upload_weights(*device_, model_.shape, model_.tensors, resolved_.n_ctx, options.on_load)),
          cache_(*device_, kv_config(model_.shape, options.kv_type, resolved_.n_ctx, resolved_.n_chunk, policy_)),
          step_buffers_(*device_, model_.shape, resolved_.n_splits),
          prefill_buffers_(*device_, model_.shape, resolved_.n_chunk),
          prefill_(*device_, model_.shape, weights_, cache_, prefill_buffers_, resolved_.n_chunk, options.n_chunk),
          cached_(cache_.layout()) {
        build_engine();
    }

    const ModelShape& shape() const override { return model_.shape; }
    const DeviceInfo& device() const override { return device_->info(); }
    std::uint32_t n_ctx() const override { return resolved_.n_ctx; }
    std::uint32_t n_chunk() const override { return resolved_.n_chunk; }
    const MemoryPlan& memory() const override { return resolved_.memory; }
    std::uint32_t n_dependent_dispatches() const override {
        return engine_->plan.n_dependent_dispatches(!policy_.is_dense());
    }
    std::uint32_t n_cached() const override { return cached_.n(); }
    const std::vector<std::int32_t>& tokens() const override { return cached_.ids(); }
    const SessionStats& stats() const override { return stats_; }
    const SparsePolicy& sparse_policy() const override { return policy_; }
    SparseReport sparse_report() const override { return engine_->meter.report(); }

    std::uint32_t truncate(std::uint32_t n) override {
        finish();
        if (n < n_cached()) go_back(n);
        return n_cached();
    }
    std::uint32_t n_kept(std::uint32_t n) const override { return n < n_cached() ? cached_.n_servable(n) : n_cached(); }

    void prefill(std::span<const std::int32_t> tokens, const Progress& progress) override {
        run_prefill(tokens, progress, {});
    }

    void evaluate(std::span<const std::int32_t> tokens, const LogitRows& rows, const Progress& progress) override {
        run_prefill(tokens, progress, rows);
    }

    void start(std::span<const std::int32_t> prompt, const SamplingOptions& sampling,
               const std::vector<std::int32_t>& stop_tokens, std::uint32_t n_limit, const Progress& progress) override {
        finish();
        if (prompt.empty()) throw Error(ErrorCode::kInvalidArgument, "the prompt is empty: give at least one token");
        check_room(prompt.size());
        if (sampling.repeat_last_n > kMostRepeatTokens)
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("repeat_last_n is {}: give {} or less", sampling.repeat_last_n, kMostRepeatTokens));
        stats_ = {};
        const std::size_t wanted = n_cached() + prompt.size() - 1;
        run_prefill(prompt.first(prompt.size() - 1), progress, {});
        if (n_cached() < wanted) return;  // stopped by the caller
        pending_ = prompt.back();
        std::vector<std::int32_t> recent = tokens();
        recent.push_back(pending_);
        DecodeLoop::Start at;
        at.token = static_cast<std::uint32_t>(pending_);
        at.position = n_cached();
        at.capacity = resolved_.n_ctx;
        at.n_limit = std::min(n_limit, resolved_.n_ctx - n_cached());
        at.rng_counter = n_cached();
        at.recent = recent;
        engine_->loop.start(make_step_state(sampling, stop_tokens), at);
        engine_->meter.reset();
        started_ = true;
        started_at_ = n_cached();
        begin_ = Clock::now();
    }

    std::optional<std::int32_t> next() override {
        if (!started_) return std::nullopt;
        const std::optional<std::int32_t> token = engine_->loop.next();
        if (!token) return std::nullopt;
        note_step(pending_);
        pending_ = *token;
        ++stats_.n_generated;
        stats_.generate_seconds = seconds_since(begin_);
        return token;
    }

    void finish() override {
        if (!started_) return;
        started_ = false;
        engine_->loop.finish();
        // Steps queued beyond the token read last have run too, but for those after a stop: each that ran has left a
        // token. They do not count, but in rings they took the place of older keys.
        const std::uint32_t n_ran = step_buffers_.ring.mapped_as<const volatile std::uint32_t>()[0];
        cached_.note_written(started_at_ + n_ran);
        // They may also have written summaries.
        engine_->refresh(n_cached(), n_cached());
    }

    void save_cache(const std::string& path) override {
        finish();
        write_cache_file(path, *device_, cache_, cache_stamp(), tokens(), cached_.history());
    }

    std::uint32_t restore_cache(const std::string& path, std::span<const std::int32_t> tokens) override {
        finish();
        for (const std::int32_t id : tokens) check_token(id);
        const CacheFile file(path, cache_, cache_stamp());
        const std::size_t most = std::min<std::size_t>({tokens.size(), file.n_valid(policy_), resolved_.n_ctx});
        std::uint32_t n = 0;
        while (n < most && file.tokens()[n] == tokens[n]) ++n;
        n = cached_.n_servable(n, file.history().n_written);
        if (n == 0) return 0;
        // Should the copy fail, the cache is empty.
        go_back(0);
        file.load(*device_, cache_, n);
        cached_.assign({tokens.begin(), tokens.begin() + n}, file.history());
        engine_->refresh(n, 0);
        return n;
    }

    void use_sparse(const SparseOptions& sparse) override {
        finish();
        SparseOptions wanted = sparse;
        if (!wanted.calibration) wanted.calibration = options_.sparse.calibration;
        wanted = with_calibration(model_, std::move(wanted));
        const std::vector<std::uint32_t> tables_before = role_tables(cache_.layout(), policy_);
        SparsePolicy policy = resolve_policy(model_.shape, wanted, options_.kv_type);
        const SparsePolicy policy_before = policy_;
        const SparseOptions options_before = options_.sparse;
        try {
            adopt(std::move(policy), std::move(wanted));
        } catch (...) {  // the device cannot: the session goes on as it was
            adopt(policy_before, options_before);
            engine_->refresh(n_cached(), 0);
            throw;
        }
        if (role_tables(cache_.layout(), policy_) != tables_before) cached_.forget_policy();
        engine_->refresh(n_cached(), 0);
    }

    std::span<const float> decode_logits(std::int32_t token) override {
        if (started_) finish();
        check_token(token);
        check_room(1);
        start_greedy(token, 1, resolved_.n_ctx + 1);
        try {
            engine_->loop.next();
        } catch (...) {
            forget_surplus();
            throw;
        }
        note_step(token);
        logits_ = vk::read_back_as<float>(*device_, step_buffers_.logits);
        return logits_;
    }

    void capture(std::span<const std::int32_t> tokens, const QueryRows& rows, const Progress& progress) override {
        const std::size_t row = model_.shape.q_dim();
        const vk::Buffer copies(*device_, "captured_queries", row * 2 * resolved_.n_chunk * model_.shape.n_layers,
                                vk::BufferUse::kReadback);
        struct Capturing {
            AttentionPipeline& attention;
            ~Capturing() { attention.capture_queries(nullptr, nullptr); }
        } const capturing{engine_->attention};
        engine_->attention.capture_queries(&prefill_buffers_.query, &copies);
        std::uint32_t before = 0;
        const auto on_chunk = [&](std::uint32_t done, std::uint32_t total) {
            for (std::uint32_t layer = 0; layer < model_.shape.n_layers && done > before; ++layer)
                rows(
                    layer, before,
                    {copies.mapped_as<const std::uint16_t>() + layer * resolved_.n_chunk * row, (done - before) * row});
            before = done;
            return !progress || progress(done, total);
        };
        run_prefill(tokens, on_chunk, {});
    }

    std::vector<std::uint16_t> cached_keys(std::uint32_t layer) const override {
        return read_keys(*device_, cache_, layer, n_cached(), cached_.history().n_written);
    }

    void assume_cached(std::uint32_t n) override {
        truncate(0);
        if (n > resolved_.n_ctx)
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("{} tokens exceed the context of {}", n, resolved_.n_ctx));
        fill_pools(*device_, cache_);
        cached_.assign(std::vector<std::int32_t>(n, 0), {n, n, 0});
        if (cache_.evicted()) cache_.evicted().assume(*device_, cache_.layout(), n);
        engine_->refresh(n, 0);
    }

    std::vector<StageTime> time_stages() override {
        finish();
        check_room(1);
        start_greedy(0, 8, resolved_.n_ctx);
        std::vector<StageTime> times;
        for (const vk::GpuTimer::Interval& interval : engine_->loop.time_step())
            times.push_back({interval.label, interval.microseconds});
        engine_->settle_sums(n_cached());
        return times;
    }

private:
    CacheStamp cache_stamp() const {
        if (!model_.file) throw Error(ErrorCode::kInvalidArgument, "a prompt cache needs a model that is a file");
        return {model_hash(*model_.file), role_tables(cache_.layout(), policy_)};
    }

    void adopt(SparsePolicy policy, SparseOptions sparse) {
        cache_.set_summed(*device_,
                          kv_config(model_.shape, options_.kv_type, resolved_.n_ctx, resolved_.n_chunk, policy).roles);
        policy_ = std::move(policy);
        options_.sparse = std::move(sparse);
        prefill_.set_attention(nullptr);
        engine_.reset();  // before the next one, which needs its memory
        build_engine();
    }

    void build_engine() {
        policy_.local_window = local_window(policy_, resolved_.n_ctx);
        engine_ = std::make_unique<SparseEngine>(*device_, model_.shape, weights_, cache_, step_buffers_,
                                                 resolved_.n_splits, policy_, options_);
        prefill_.set_attention(&engine_->attention);
        policy_hash_ = policy_hash(policy_);
    }

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
    // For one step at the end of the cache that the caller runs; should that fail, it has written.
    void start_greedy(std::int32_t token, std::uint32_t n_limit, std::uint32_t capacity) {
        cached_.note_written(n_cached() + 1);
        DecodeLoop::Start at;
        at.token = static_cast<std::uint32_t>(token);
        at.position = n_cached();
        at.capacity = capacity;
        at.n_limit = n_limit;
        SamplingOptions greedy;
        greedy.temperature = 0;
        engine_->loop.start(make_step_state(greedy, {}), at);
    }

    // The step that just completed has put this token into the cache.
    void note_step(std::int32_t token) {
        engine_->meter.note_step(engine_->loop, n_cached() + 1);
        cached_.push(token, engine_->loop.last_was_sparse() ? policy_hash_ : 0);
    }

    // Forgets what the cache holds after n tokens, or everything where that much cannot be kept.
    void go_back(std::uint32_t n) {
        n = cached_.keep(n);
        engine_->refresh(n, n);
    }

    // After an error: rings, sums and summaries as they were.
    void forget_surplus() {
        try {
            go_back(n_cached());
        } catch (...) {  // a device that is lost: the first error is the one to tell
        }
    }

    void run_prefill(std::span<const std::int32_t> tokens, const Progress& progress, const LogitRows& rows) {
        finish();
        for (const std::int32_t id : tokens) check_token(id);
        check_room(tokens.size());
        if (tokens.empty()) return;
        const Clock::time_point begin = Clock::now();
        const std::uint32_t first = n_cached();
        std::uint32_t done = 0;
        try {
            done = prefill_.run(tokens, first, progress, rows);
        } catch (...) {
            cached_.note_written(first + prefill_.n_written());
            forget_surplus();
            throw;
        }
        for (std::uint32_t i = 0; i < done; ++i) cached_.push(tokens[i]);
        if (prefill_.n_written() > done) {  // a chunk was given up
            cached_.note_written(first + prefill_.n_written());
            go_back(n_cached());
        }
        stats_.n_prompt += done;
        stats_.prompt_seconds += seconds_since(begin);
    }

    std::unique_ptr<vk::Device> device_;
    ModelSource model_;
    SessionOptions options_;
    SparsePolicy policy_;
    ResolvedOptions resolved_;
    ModelWeights weights_;
    KvCache cache_;
    StepBuffers step_buffers_;
    PrefillBuffers prefill_buffers_;
    Prefill prefill_;
    std::unique_ptr<SparseEngine> engine_;
    CachedTokens cached_;
    std::uint32_t policy_hash_ = 0;  // of policy_
    std::vector<float> logits_;      // of decode_logits
    std::int32_t pending_ = 0;       // newest token, not yet in the cache
    bool started_ = false;
    std::uint32_t started_at_ = 0;  // tokens cached when the answer began
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

std::unique_ptr<Session> make_session(std::unique_ptr<vk::Device> device, ModelSource model,
                                      const SessionOptions& options) {
    return std::make_unique<ModelSession>(std::move(device), std::move(model), options);
}

std::unique_ptr<Session> Session::open(const std::string& model_path, const SessionOptions& options) {
    ModelSource model = open_model(model_path);  // a bad file is reported before any device is touched
    return make_session(vk::Device::open(options.device), std::move(model), options);
}

}  // namespace winnow
