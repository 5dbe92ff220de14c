// SPDX-License-Identifier: Apache-2.0
#include "winnow/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "models/model.h"
#include "models/random_model.h"
#include "models/session_cache.h"
#include "models/session_plan.h"
#include "models/sidecar.h"
#include "models/sparse_engine.h"
#include "runtime/decode/audit_controller.h"
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
          policy_(resolve_policy(model_.shape, options_.sparse = with_calibration(model_, options.sparse), options.kv_type)),
          resolved_(plan_session(*device_, model_, options_)),
          weights_(upload_weights(*device_, model_.shape, model_.tensors, resolved_.n_ctx, options.on_load)),
          cache_(*device_, kv_config(model_.shape, options.kv_type, resolved_.n_ctx, resolved_.n_chunk, policy_)),
          step_buffers_(*device_, model_.shape, resolved_.n_splits),
          prefill_buffers_(*device_, model_.shape, resolved_.n_chunk),
          prefill_(*device_, model_.shape, weights_, cache_, prefill_buffers_, resolved_.n_chunk, options.n_chunk) {
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
    std::uint32_t n_cached() const override { return static_cast<std::uint32_t>(tokens_.size()); }
    const std::vector<std::int32_t>& tokens() const override { return tokens_; }
    const SessionStats& stats() const override { return stats_; }

    std::uint32_t truncate(std::uint32_t n) override {
        finish();
        if (n < tokens_.size()) go_back(n);
        return n_cached();
    }
    std::uint32_t n_kept(std::uint32_t n) const override {
        return n < n_cached() ? visible_from(n, history_.n_written) : n_cached();
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
        if (sampling.repeat_last_n > kMostRepeatTokens)
            throw Error(ErrorCode::kInvalidArgument, fmt::format("repeat_last_n is {}: give {} or less", sampling.repeat_last_n, kMostRepeatTokens));
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
        engine_->loop.start(make_step_state(sampling, stop_tokens), at);
        reset_report();
        started_ = true;
        started_at_ = n_cached();
        begin_ = Clock::now();
    }

    std::optional<std::int32_t> next() override {
        if (!started_) return std::nullopt;
        const std::optional<std::int32_t> token = engine_->loop.next();
        if (!token) return std::nullopt;
        note_step();
        push_token(pending_, engine_->loop.last_was_sparse());
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
        history_.n_written = std::max(history_.n_written, started_at_ + n_ran);
        // They may also have written summaries.
        refresh_summaries(n_cached());
    }

    void save_cache(const std::string& path) override {
        finish();
        write_cache_file(path, *device_, cache_, cache_stamp(), tokens_, history_);
    }

    std::uint32_t restore_cache(const std::string& path, std::span<const std::int32_t> tokens) override {
        finish();
        for (const std::int32_t id : tokens) check_token(id);
        const CacheFile file(path, cache_, cache_stamp());
        const std::size_t most = std::min<std::size_t>({tokens.size(), file.n_valid(policy_), resolved_.n_ctx});
        std::uint32_t n = 0;
        while (n < most && file.tokens()[n] == tokens[n]) ++n;
        n = visible_from(n, file.history().n_written);
        if (n == 0) return 0;
        // Should the copy fail, the cache is empty.
        tokens_.clear();
        history_ = {};
        refresh_summaries(0);
        file.load(*device_, cache_, n);
        tokens_.assign(tokens.begin(), tokens.begin() + n);
        history_ = file.history();
        history_.n_dense = std::min(history_.n_dense, n);
        refresh_summaries(0);
        return n;
    }

    void use_sparse(const SparseOptions& sparse) override {
        finish();
        SparseOptions wanted = sparse;
        if (!wanted.calibration) wanted.calibration = options_.sparse.calibration;
        wanted = with_calibration(model_, std::move(wanted));
        const std::vector<std::uint32_t> tables_before = role_tables();
        SparsePolicy policy = resolve_policy(model_.shape, wanted, options_.kv_type);
        const SparsePolicy policy_before = policy_;
        const SparseOptions options_before = options_.sparse;
        try {
            adopt(std::move(policy), std::move(wanted));
        } catch (...) {  // the device cannot: the session goes on as it was
            adopt(policy_before, options_before);
            refresh_summaries(0);
            throw;
        }
        if (role_tables() != tables_before) {  // what is cached came about under roles that a file would not tell of
            history_.n_dense = 0;
            history_.policy = 0;
        }
        refresh_summaries(0);
    }
    const SparsePolicy& sparse_policy() const override { return policy_; }

    std::span<const float> decode_logits(std::int32_t token) override {
        if (started_) finish();
        check_token(token);
        check_room(1);
        SamplingOptions greedy;
        greedy.temperature = 0;
        DecodeLoop::Start at;
        at.token = static_cast<std::uint32_t>(token);
        at.position = n_cached();
        at.capacity = resolved_.n_ctx + 1;
        at.n_limit = 1;
        engine_->loop.start(make_step_state(greedy, {}), at);
        history_.n_written = std::max(history_.n_written, n_cached() + 1);  // should the step fail, it has written
        try {
            engine_->loop.next();
        } catch (...) {
            forget_surplus();
            throw;
        }
        note_step();
        push_token(token, engine_->loop.last_was_sparse());
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
                rows(layer, before,
                     {copies.mapped_as<const std::uint16_t>() + layer * resolved_.n_chunk * row, (done - before) * row});
            before = done;
            return !progress || progress(done, total);
        };
        run_prefill(tokens, on_chunk, {});
    }

    std::vector<std::uint16_t> cached_keys(std::uint32_t layer) const override {
        const KvLayout& layout = cache_.layout();
        const std::uint32_t block = layout.config().block_size, dim = model_.shape.head_dim, n_kv = model_.shape.n_kv_heads;
        if (layout.config().type != KvType::kF16)
            throw Error(ErrorCode::kInvalidArgument, "keys are read back from an f16 cache only");
        const auto pool = vk::read_back_as<std::uint16_t>(*device_, cache_.keys(layer));
        std::vector<std::uint16_t> keys(std::size_t{n_cached()} * n_kv * dim, 0);
        for (std::uint32_t h = 0; h < n_kv; ++h) {
            const HeadLayout& head = layout.head(layer, h);
            for (std::uint32_t t = 0; t < n_cached(); ++t) {
                std::uint32_t slot = t / block;
                if (head.ring_blocks != 0 && slot >= head.sink_blocks) {
                    if (slot + head.ring_blocks <= (history_.n_written - 1) / block) continue;  // overwritten
                    slot = head.sink_blocks + (slot - head.sink_blocks) % head.ring_blocks;
                }
                const std::size_t from = ((head.first_block + slot) * std::size_t{block} + t % block) * dim;
                std::copy_n(pool.begin() + from, dim, keys.begin() + (std::size_t{t} * n_kv + h) * dim);
            }
        }
        return keys;
    }

    SparseReport sparse_report() const override {
        SparseReport r;
        const std::uint32_t n_heads = model_.shape.n_heads;
        const std::uint32_t n_kv = model_.shape.n_kv_heads;
        r.n_steps = n_sparse_steps_;
        r.kv_bytes_per_token = n_steps_ == 0 ? 0 : bytes_read_ / static_cast<double>(n_steps_);
        r.layer_head_share.assign(std::size_t{model_.shape.n_layers} * n_kv, 1.0f);
        r.layer_head_mass.assign(std::size_t{model_.shape.n_layers} * n_heads, NAN);
        if (n_sparse_steps_ == 0) return r;
        double share = 0;
        std::size_t n_full = 0;
        for (std::uint32_t layer = 0; layer < model_.shape.n_layers; ++layer) {
            if (model_.shape.layers[layer].window != 0) continue;
            for (std::uint32_t h = 0; h < n_kv; ++h) {
                const std::size_t i = layer * n_kv + h;
                const LayerKind kind = policy_.layers[layer].kind;
                if ((kind != LayerKind::kDense && kind != LayerKind::kAnchor) || is_local(i))
                    r.layer_head_share[i] = static_cast<float>(share_sums_[i] / static_cast<double>(n_sparse_steps_));
                share += r.layer_head_share[i];
                ++n_full;
            }
        }
        r.attended_share = n_full == 0 ? 1 : share / static_cast<double>(n_full);
        r.n_audits = masses_.size();
        r.n_unaudited = n_unaudited_;
        summarize_masses(masses_, r.mass_mean, r.mass_p5, r.mass_min);
        summarize_masses(rest_masses_, r.rest_mean, r.rest_p5, r.rest_min);
        for (std::size_t i = 0; i < mass_sums_.size(); ++i)
            if (mass_counts_[i] > 0) r.layer_head_mass[i] = static_cast<float>(mass_sums_[i] / mass_counts_[i]);
        return r;
    }

    void assume_cached(std::uint32_t n) override {
        truncate(0);
        if (n > resolved_.n_ctx)
            throw Error(ErrorCode::kInvalidArgument, fmt::format("{} tokens exceed the context of {}", n, resolved_.n_ctx));
        // A pattern in the first pool, copied to the rest of it and to all others.
        const vk::Buffer& first = cache_.keys(0);
        const std::uint64_t n_blocks = std::min<std::uint64_t>(first.bytes(), 16u << 20) / cache_.layout().block_bytes();
        const std::vector<std::byte> pattern = random_kv_blocks(cache_.layout(), n_blocks);
        vk::Uploader(*device_).upload({first, 0, pattern.size()}, pattern);
        for (std::uint32_t layer = 0; layer < model_.shape.n_layers; ++layer) {
            vk::run_once(*device_, [&](vk::Recorder& recorder) {
                for (const vk::Buffer* pool : {&cache_.keys(layer), &cache_.values(layer)})
                    for (std::uint64_t at = pool == &first ? pattern.size() : 0; at < pool->bytes(); at += pattern.size()) {
                        const std::uint64_t bytes = std::min<std::uint64_t>(pattern.size(), pool->bytes() - at);
                        recorder.copy({first, 0, bytes}, {*pool, at, bytes});
                    }
            });
        }
        tokens_.assign(n, 0);
        history_ = {n, n, 0};
        if (cache_.evicted()) cache_.evicted().assume(*device_, cache_.layout(), n);
        refresh_summaries(0);
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
        history_.n_written = std::max(history_.n_written, n_cached() + 1);
        engine_->loop.start(make_step_state(greedy, {}), at);
        for (const vk::GpuTimer::Interval& interval : engine_->loop.time_step())
            times.push_back({interval.label, interval.microseconds});
        settle_sums();
        return times;
    }

private:
    static void summarize_masses(std::vector<float> values, double& mean, double& p5, double& least) {
        if (values.empty()) return;
        std::sort(values.begin(), values.end());
        double sum = 0;
        for (const float v : values) sum += v;
        mean = sum / static_cast<double>(values.size());
        p5 = values[values.size() / 20];
        least = values.front();
    }

    bool is_local(std::size_t head) const { return !policy_.local_heads.empty() && policy_.local_heads[head] != 0; }

    // What each head sees, in the block tables. Rings stay as they were allocated; a head that keeps everything can be narrowed.
    std::vector<std::uint32_t> role_tables() const {
        const KvLayout& layout = cache_.layout();
        std::vector<std::uint32_t> tables = layout.tables();
        for (std::size_t i = 0; i < policy_.local_heads.size(); ++i) {
            const auto n_kv = model_.shape.n_kv_heads;
            const auto at = static_cast<std::uint32_t>(i);
            if (!is_local(i) || layout.head(at / n_kv, at % n_kv).ring_blocks != 0) continue;
            tables[i * layout.table_stride() + WINNOW_TABLE_WINDOW] = policy_.local_window;
            tables[i * layout.table_stride() + WINNOW_TABLE_SINK_TOKENS] = policy_.sink;
        }
        return tables;
    }
    void write_roles() {
        policy_.local_window = local_window(policy_, resolved_.n_ctx);
        vk::Uploader(*device_).upload(cache_.tables(), std::as_bytes(std::span<const std::uint32_t>(role_tables())));
    }
    CacheStamp cache_stamp() const {
        if (!model_.file) throw Error(ErrorCode::kInvalidArgument, "a prompt cache needs a model that is a file");
        return {model_hash(*model_.file), role_tables()};
    }

    void adopt(SparsePolicy policy, SparseOptions sparse) {
        cache_.set_summed(*device_, kv_config(model_.shape, options_.kv_type, resolved_.n_ctx, resolved_.n_chunk, policy).roles);
        policy_ = std::move(policy);
        options_.sparse = std::move(sparse);
        prefill_.set_attention(nullptr);
        engine_.reset();  // before the next one, which needs its memory
        build_engine();
    }

    void build_engine() {
        write_roles();
        engine_ = std::make_unique<SparseEngine>(*device_, model_.shape, weights_, cache_, step_buffers_, resolved_.n_splits,
                                                 policy_, options_);
        prefill_.set_attention(&engine_->attention);
        policy_hash_ = policy_hash(policy_);
        // --audit N steers; --audit full only measures, so that what it reports is the policy's own doing.
        controller_.reset();
        if (options_.sparse.audit_every > 1 && !policy_.levels.empty())
            controller_.emplace(policy_, model_.shape.n_kv_heads);
        reset_report();
    }

    // Sums of what left the windows, as the cache is now.
    void settle_sums() {
        const EvictedSums& sums = cache_.evicted();
        if (!sums) return;
        if (n_cached() == 0) return sums.clear(*device_);
        vk::run_once(*device_, [&](vk::Recorder& recorder) {
            for (std::uint32_t layer = 0; layer < model_.shape.n_layers; ++layer)
                engine_->attention.record_evicted(recorder, layer, n_cached());
        });
    }

    // Sums, and summaries of the cached tokens from `from` on (rounded down to a superblock), from their keys: after the
    // policy or the length of the cache changed.
    void refresh_summaries(std::uint32_t from) {
        settle_sums();
        if (policy_.is_dense()) return;
        engine_->attention.reset();
        from = from / 1024 * 1024;
        if (n_cached() <= from) return;
        // All layers of a deep cache at once would make a display stutter, or a driver give the device up.
        constexpr std::uint32_t kMostKeys = 1u << 16;  // of a submission, unless one layer has more
        const std::uint32_t n_tokens = n_cached() - from, n_layers = model_.shape.n_layers;
        const std::uint32_t n_at_once = std::max(kMostKeys / n_tokens, 1u);
        for (std::uint32_t first = 0; first < n_layers; first += n_at_once)
            vk::run_once(*device_, [&](vk::Recorder& recorder) {
                for (std::uint32_t layer = first; layer < std::min(n_layers, first + n_at_once); ++layer)
                    engine_->attention.record_prefill(recorder, layer, n_tokens, from);
            });
    }

    void reset_report() {
        n_sparse_steps_ = n_steps_ = n_unaudited_ = 0;
        bytes_read_ = 0;
        const std::size_t n_layers = model_.shape.n_layers;
        share_sums_.assign(n_layers * model_.shape.n_kv_heads, 0.0);
        mass_sums_.assign(n_layers * model_.shape.n_heads, 0.0);
        mass_counts_.assign(mass_sums_.size(), 0);
        masses_.clear();
        rest_masses_.clear();
    }

    // Reads what the step that just completed left in the host-visible report buffers.
    void note_step() {
        ++n_steps_;
        const bool sparse = engine_->loop.last_was_sparse();
        bytes_read_ += static_cast<double>(engine_->attention.bytes_read(n_cached() + 1, sparse));
        if (!sparse) return;
        ++n_sparse_steps_;
        const double n_tokens = n_cached() + 1;
        const std::span<const std::uint32_t> counts = engine_->attention.attended_counts();
        for (std::size_t i = 0; i < counts.size(); ++i)
            share_sums_[i] += is_local(i) ? std::min(1.0, (policy_.local_window + policy_.sink) / n_tokens) : counts[i] / n_tokens;
        if (options_.sparse.audit_every == 0) return;
        const std::span<const AttentionPipeline::Mass> records = engine_->attention.audit_records();
        const std::uint32_t n_heads = model_.shape.n_heads;
        for (std::uint64_t at = engine_->loop.last_audit_phase(); at < model_.shape.n_layers; at += options_.sparse.audit_every) {
            const auto layer = static_cast<std::uint32_t>(at);
            const LayerKind kind = policy_.layers[layer].kind;
            if (kind == LayerKind::kDense || kind == LayerKind::kAnchor) continue;
            if (controller_ && controller_->steers(layer)) steer(layer, records, counts, n_tokens);
            for (std::uint32_t h = 0; h < n_heads; ++h) {
                if (!can_audit(layer, h / model_.shape.n_group())) {  // nothing to compare with
                    n_unaudited_ += cache_.layout().head(layer, h / model_.shape.n_group()).ring_blocks != 0 ? 1 : 0;
                    continue;
                }
                const AttentionPipeline::Mass& m = records[layer * n_heads + h];
                masses_.push_back(m.mass);
                rest_masses_.push_back(m.without_sinks);
                mass_sums_[layer * n_heads + h] += m.mass;
                ++mass_counts_[layer * n_heads + h];
            }
        }
    }

    // Of a ring the audit sees only what the head itself sees; local heads are meant to lose the rest.
    bool can_audit(std::uint32_t layer, std::uint32_t kv_head) const {
        return cache_.layout().head(layer, kv_head).ring_blocks == 0 && !is_local(layer * model_.shape.n_kv_heads + kv_head);
    }

    void steer(std::uint32_t layer, std::span<const AttentionPipeline::Mass> records, std::span<const std::uint32_t> counts,
               double n_tokens) {
        const std::uint32_t n_group = model_.shape.n_group();
        std::vector<HeadPolicy*> levels(policy_.levels.size());
        for (std::uint32_t kv_head = 0; kv_head < model_.shape.n_kv_heads; ++kv_head) {
            if (!can_audit(layer, kv_head)) continue;
            float least = 1;
            for (std::uint32_t g = 0; g < n_group; ++g)
                least = std::min(least, records[layer * model_.shape.n_heads + kv_head * n_group + g].mass);
            const double share = counts[layer * model_.shape.n_kv_heads + kv_head] / n_tokens;
            const AuditController::Source from = controller_->source(layer, kv_head);
            for (std::size_t i = 0; i < levels.size(); ++i) levels[i] = &engine_->attention.head_policy(from.layer, from.kv_head, i);
            controller_->observe(layer, kv_head, least, static_cast<float>(share), static_cast<std::uint32_t>(n_tokens), levels);
        }
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
    // What follows a token of a step that selected depends on that selection too, however it is computed itself.
    void push_token(std::int32_t id, bool selected = false) {
        const bool all_dense = history_.n_dense == n_cached();
        tokens_.push_back(id);
        history_.n_written = std::max(history_.n_written, n_cached());
        if (!selected && all_dense) history_.n_dense = n_cached();
        if (!selected) return;
        if (all_dense) history_.policy = policy_hash_;
        else if (history_.policy != policy_hash_) history_.policy = 0;
    }

    // How many of the first n tokens a cache still serves that once held `n_written`. A ring has overwritten what lies more than its
    // blocks behind the newest token ever written: where the window of the next token reaches back further, it is none.
    std::uint32_t visible_from(std::uint32_t n, std::uint32_t n_written) const {
        const KvLayout& layout = cache_.layout();
        const std::uint32_t n_kv = model_.shape.n_kv_heads, block = layout.config().block_size;
        for (std::uint32_t i = 0; i < model_.shape.n_layers * n_kv && n > 0; ++i) {
            const HeadLayout& head = layout.head(i / n_kv, i % n_kv);
            const std::uint32_t newest = (n_written - 1) / block;
            if (head.ring_blocks == 0 || newest < head.sink_blocks + head.ring_blocks) continue;
            const std::uint32_t oldest = (newest + 1 - head.ring_blocks) * block;
            if (n + 1 < oldest + layout.config().roles[i].window) n = 0;
        }
        return n;
    }

    // Forgets what the cache holds after n tokens, or everything where that much cannot be kept.
    void go_back(std::uint32_t n) {
        n = visible_from(n, history_.n_written);
        tokens_.resize(n);
        history_.n_dense = std::min(history_.n_dense, n);
        if (n == 0) history_ = {};
        refresh_summaries(n);
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
            history_.n_written = std::max(history_.n_written, first + prefill_.n_written());
            forget_surplus();
            throw;
        }
        for (std::uint32_t i = 0; i < done; ++i) push_token(tokens[i]);
        if (prefill_.n_written() > done) {  // a chunk was given up
            history_.n_written = std::max(history_.n_written, first + prefill_.n_written());
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
    std::optional<AuditController> controller_;
    std::vector<float> logits_;  // of decode_logits
    std::uint64_t n_sparse_steps_ = 0, n_steps_ = 0, n_unaudited_ = 0;
    double bytes_read_ = 0;
    std::vector<double> share_sums_, mass_sums_;
    std::vector<std::uint32_t> mass_counts_;
    std::vector<float> masses_, rest_masses_;
    std::vector<std::int32_t> tokens_;  // in the cache
    CacheHistory history_;              // of those tokens
    std::uint32_t policy_hash_ = 0;     // of policy_
    std::int32_t pending_ = 0;          // newest token, not yet in the cache
    bool started_ = false;
    std::uint32_t started_at_ = 0;      // tokens cached when the answer began
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
