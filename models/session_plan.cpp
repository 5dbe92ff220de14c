// SPDX-License-Identifier: Apache-2.0
#include "models/session_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "models/sidecar.h"
#include "runtime/decode/prefill.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/vk/quirks.h"
#include "runtime/weights/attend_tuning.h"

namespace winnow {
namespace {

// Layers that never look beyond sinks and window need not keep the rest: their heads become local rings.
bool keeps_window_only(const SparsePolicy& policy, std::uint32_t layer) {
    return policy.layers[layer].kind == LayerKind::kWindowOnly && policy.value_skip == 0;
}

// "2-7" as --sparse-layers has it, the last layer included.
std::string range_text(const LayerRange& range) {
    if (range.end == LayerRange::kOpenEnd) return fmt::format("{}-", range.begin);
    return range.end <= range.begin + 1 ? fmt::format("{}", range.begin)
                                        : fmt::format("{}-{}", range.begin, range.end - 1);
}

// Marks the layers that no range names.
void exclude_layers(std::vector<bool>& excluded, const std::vector<LayerRange>& ranges) {
    const auto n_layers = static_cast<std::uint32_t>(excluded.size());
    std::vector<bool> named(n_layers, false);
    for (const LayerRange& range : ranges) {
        const std::uint32_t end = range.end == LayerRange::kOpenEnd ? n_layers : range.end;
        // Taking what there is of it would leave the user believing in layers that are not there.
        if (range.begin >= n_layers || end > n_layers)
            throw Error(ErrorCode::kInvalidArgument, fmt::format("--sparse-layers {}: the model has {} layers, 0 to {}",
                                                                 range_text(range), n_layers, n_layers - 1));
        for (std::uint32_t i = range.begin; i < end; ++i) named[i] = true;
    }
    for (std::uint32_t i = 0; i < n_layers; ++i) excluded[i] = excluded[i] || !named[i];
}

std::vector<bool> windowed_layers(const ModelShape& shape) {
    std::vector<bool> windowed;
    for (const LayerShape& layer : shape.layers) windowed.push_back(layer.window != 0);
    return windowed;
}

}  // namespace

std::uint32_t chunk_tokens(std::uint32_t asked, bool is_cpu, std::uint64_t memory_bytes, std::uint32_t n_ctx) {
    // Longer chunks make better use of matrix units (on an H200 1,024 tokens 4 % better than 512) and want more memory.
    constexpr std::uint64_t kLargeCard = 20ull << 30;
    const std::uint32_t usual = is_cpu ? 64 : memory_bytes < kLargeCard ? 512 : 1024;
    return std::min(asked != 0 ? asked : usual, n_ctx);
}

std::uint32_t local_window(const SparsePolicy& policy, std::uint32_t n_ctx) {
    if (policy.local_window != 0) return policy.local_window;
    const auto part = static_cast<std::uint32_t>(policy.local_share * static_cast<float>(n_ctx));
    return std::clamp(part, policy.local_least, policy.local_most);
}

namespace {

// A ring holds its window and whatever is appended before a query reads it. So that the second stays an eighth of the
// first, longer chunks are appended and attended to in parts.
std::uint32_t part_tokens(std::uint32_t window, std::uint32_t n_chunk) {
    return std::min(n_chunk, std::max(window / 8 / 64 * 64, 64u));
}

}  // namespace

KvConfig kv_config(const ModelShape& shape, KvType type, std::uint32_t n_ctx, std::uint32_t n_chunk,
                   const SparsePolicy& policy) {
    KvConfig c;
    c.n_layers = shape.n_layers;
    c.n_kv_heads = shape.n_kv_heads;
    c.head_dim = shape.head_dim;
    c.capacity = n_ctx;
    c.max_chunk = n_chunk;
    c.type = type;
    c.roles = model_roles(shape);
    const auto make_ring = [&](std::size_t head, std::uint32_t window) {
        c.roles[head] = {true, window, policy.sink};
        c.max_chunk = std::min(c.max_chunk, part_tokens(window, n_chunk));
    };
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer)
        if (keeps_window_only(policy, layer))
            for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h) make_ring(layer * shape.n_kv_heads + h, policy.window);
    for (std::size_t i = 0; i < policy.local_heads.size(); ++i)
        if (policy.is_local(i)) {
            make_ring(i, local_window(policy, n_ctx));
            c.roles[i].summed = policy.compensate;
        }
    return c;
}

std::uint64_t planned_kv_bytes(const ModelShape& shape, KvType type, std::uint32_t n_ctx, std::uint32_t n_chunk,
                               const SparsePolicy& policy) {
    return KvCache::bytes_needed(KvLayout(kv_config(shape, type, n_ctx, n_chunk, policy)));
}

AttentionShape attention_shape(const ModelShape& s) { return {s.n_layers, s.n_heads, s.n_kv_heads, s.head_dim}; }

SparseOptions with_calibration(const ModelSource& model, SparseOptions sparse) {
    if (sparse.calibration || !uses_calibration(sparse.preset)) return sparse;
    if (model.file) sparse.calibration = find_calibration(*model.file, model.shape);
    else sparse.calibration = std::make_shared<Calibration>(assume_calibration(model.shape));
    return sparse;
}

SparsePolicy resolve_policy(const ModelShape& shape, const SparseOptions& options, KvType kv_type) {
    if (options.calibration) check_calibration(*options.calibration, shape);
    const Calibration* calibration = options.calibration.get();
    std::vector<bool> excluded = windowed_layers(shape);
    // Lists of calibrated anchors would be missing where an anchor is left out.
    std::optional<Calibration> without_anchors;
    if (!options.layers.empty()) {
        exclude_layers(excluded, options.layers);
        if (calibration != nullptr) {
            without_anchors = *calibration;
            without_anchors->anchors.clear();
            without_anchors->refresh_layers.clear();
            calibration = &*without_anchors;
        }
    }
    // Whoever names layers means these, and not those after the first of them.
    SparseOverrides overrides = options.overrides;
    overrides.every_layer = overrides.every_layer || !options.layers.empty();
    SparsePolicy policy = make_preset(options.preset, excluded, overrides, calibration);
    policy.steered = options.audit_every > 1;
    if (!options.overrides.index_type && (kv_type == KvType::kQ8_0 || kv_type == KvType::kQ4_0))
        policy.index_type = IndexType::kInt8;
    if (policy.needs_sidecar)
        throw Error(
            ErrorCode::kInvalidArgument,
            fmt::format("--sparse {} needs a calibration sidecar, and this model has none: make one with winnow "
                        "calibrate, or use a training-free preset such as exact, twilight or quest",
                        policy.name));
    policy.check(shape.n_layers, shape.n_kv_heads);
    return policy;
}

namespace {

// What a plan is made for: the device that is there, or a card that is only named.
struct Target {
    std::string name;
    bool is_cpu = false;
    std::uint64_t memory_bytes = 0;   ///< of the card
    std::uint64_t budget_bytes = 0;   ///< of it for everything together
    std::uint64_t binding_bytes = 0;  ///< for one buffer
    std::uint64_t matrix_bytes = 0;   ///< for one range of a matrix's rows
};

// What drivers of cards offer for one buffer: all that 32 bits can count.
constexpr std::uint64_t kCardBindingBytes = 0xffffffffu;

std::uint64_t binding_bytes(const vk::Device& device) {
    return std::min(device.limits().max_storage_buffer_range, device.limits().max_allocation_bytes);
}

// What sets the context: -c, but bench has none.
constexpr const char* kContextFlags = "-c; for bench -p, -n and -d";

// Displays, drivers and pipelines need some of the memory too.
std::uint64_t without_reserve(std::uint64_t bytes) { return bytes / 20 * 19; }

// Of a need, rounded up: 95.2 MiB are not met by 95.
std::uint64_t whole_mib(std::uint64_t bytes) { return (bytes + (1 << 20) - 1) >> 20; }

class Planner {
public:
    Planner(const ModelSource& model, const SessionOptions& options, Target target)
        : model_(model),
          options_(options),
          target_(std::move(target)),
          policy_(resolve_policy(model.shape, with_calibration(model, options.sparse), options.kv_type)) {}

    /// @throws Error(kInvalidArgument) where a chunk that was asked for would not fit one buffer.
    ResolvedOptions plan(std::uint32_t n_ctx) const {
        const std::uint32_t most = PrefillBuffers::most_tokens(model_.shape, target_.binding_bytes);
        const std::uint32_t n_chunk = chunk_tokens(options_.n_chunk, target_.is_cpu, target_.memory_bytes, n_ctx);
        if (options_.n_chunk != 0 && n_chunk > most)
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("-ub {} is more than {} can do in one piece with this model: use -ub {} or less",
                                    options_.n_chunk, target_.name, most));
        const ResolvedOptions usual = plan(n_ctx, std::min(n_chunk, most));
        if (usual.fits || options_.n_chunk != 0) return usual;
        // Shorter chunks rather than less context.
        return plan(n_ctx, std::min(chunk_tokens(0, target_.is_cpu, 0, n_ctx), most));
    }
    ResolvedOptions plan(std::uint32_t n_ctx, std::uint32_t n_chunk) const {
        const ModelShape& shape = model_.shape;
        ResolvedOptions r;
        r.n_ctx = n_ctx;
        r.n_chunk = n_chunk;
        r.n_splits = AttendDense::default_splits(target_.is_cpu, shape.n_kv_heads, n_ctx, 64);
        const KvLayout layout(kv_config(shape, options_.kv_type, n_ctx, r.n_chunk, policy_));
        r.memory.weight_bytes = weight_bytes(shape, model_.tensors, n_ctx, target_.matrix_bytes);
        r.memory.kv_bytes = KvCache::bytes_needed(layout);
        r.memory.index_bytes = AttentionPipeline::bytes_needed(attention_shape(shape), layout, policy_,
                                                               select_splits(target_.is_cpu, shape.n_kv_heads, n_ctx));
        r.memory.scratch_bytes =
            StepBuffers::bytes_needed(shape, r.n_splits) + PrefillBuffers::bytes_needed(shape, r.n_chunk);
        r.fits = r.memory.total_bytes() <= target_.budget_bytes && layout.largest_pool_bytes() <= target_.binding_bytes;
        r.dense_f16_bytes =
            KvLayout(kv_config(shape, KvType::kF16, n_ctx, r.n_chunk, make_preset("off", windowed_layers(shape))))
                .total_bytes();
        r.full_share = full_share();
        return r;
    }

    // Largest context that fits, in steps of 64 tokens; 0 = none.
    std::uint32_t largest(std::uint32_t limit) const {
        std::uint32_t low = 0, high = limit / 64;
        while (low < high) {
            const std::uint32_t middle = (low + high + 1) / 2;
            if (plan(middle * 64).fits) low = middle;
            else high = middle - 1;
        }
        return low * 64;
    }

    const Target& target() const { return target_; }
    /// The most bytes that a layer's keys take in one piece.
    std::uint64_t pool_bytes(const ResolvedOptions& r) const {
        return KvLayout(kv_config(model_.shape, options_.kv_type, r.n_ctx, r.n_chunk, policy_)).largest_pool_bytes();
    }

private:
    // kv heads of layers without a window that keep every token, of all such heads.
    float full_share() const {
        std::uint32_t n_full = 0, n_all = 0;
        for (std::uint32_t layer = 0; layer < model_.shape.n_layers; ++layer) {
            if (model_.shape.layers[layer].window != 0) continue;
            for (std::uint32_t h = 0; h < model_.shape.n_kv_heads; ++h) {
                ++n_all;
                const bool local =
                    keeps_window_only(policy_, layer) || policy_.is_local(layer * model_.shape.n_kv_heads + h);
                n_full += local ? 0 : 1;
            }
        }
        return n_all == 0 ? 1 : static_cast<float>(n_full) / static_cast<float>(n_all);
    }

    const ModelSource& model_;
    const SessionOptions& options_;
    Target target_;
    SparsePolicy policy_;
};

}  // namespace

ResolvedOptions plan_session(const vk::Device& device, const ModelSource& model, const SessionOptions& options,
                             bool must_fit) {
    const ModelShape& shape = model.shape;
    const Planner planner(
        model, options,
        {device.info().name, device.is_cpu(), device.info().memory_bytes, without_reserve(device.free_memory_bytes()),
         binding_bytes(device), device.limits().max_matrix_bytes});
    if (options.n_ctx > shape.n_ctx_train)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("a context of {} is more than this model was trained for: at most {} ({})",
                                options.n_ctx, shape.n_ctx_train, kContextFlags));
    if (must_fit && device.is_cpu() && options.n_ctx > vk::kSoftwareMaxContext)
        throw Error(
            ErrorCode::kInvalidArgument,
            fmt::format("a context of {} is more than a software Vulkan driver can do: at most {} ({}), or use a GPU",
                        options.n_ctx, vk::kSoftwareMaxContext, kContextFlags));
    std::uint32_t wanted = options.n_ctx != 0 ? options.n_ctx : shape.n_ctx_train;
    if (device.is_cpu() && (must_fit || options.n_ctx == 0)) wanted = std::min(wanted, vk::kSoftwareMaxContext);
    ResolvedOptions resolved = planner.plan(wanted);
    if (must_fit)
        attend_tuning(device, shape.n_group(), shape.head_dim,
                      resolved.n_splits);  // refused before the weights are read
    if (resolved.fits) return resolved;
    const std::uint32_t most = planner.largest(shape.n_ctx_train);
    if (options.n_ctx == 0 && most > 0) return planner.plan(most);
    if (!must_fit) return resolved;
    const MemoryPlan& memory = resolved.memory;
    const Target& target = planner.target();
    const std::string remedy =
        most > 0 ? fmt::format("at most {} fit ({})", most, kContextFlags) : "use a smaller model";
    if (memory.total_bytes() <= target.budget_bytes)
        throw Error(
            ErrorCode::kOutOfMemory,
            fmt::format("{} tokens need {} MiB for the keys of one layer but '{}' gives {} MiB in one piece: {}",
                        wanted, whole_mib(planner.pool_bytes(resolved)), target.name, target.binding_bytes >> 20,
                        remedy));
    throw Error(
        ErrorCode::kOutOfMemory,
        fmt::format("{} tokens need {} MiB (weights {}, cache {}, index {}, scratch {}) but '{}' has {} MiB free: {}",
                    wanted, whole_mib(memory.total_bytes()), memory.weight_bytes >> 20, memory.kv_bytes >> 20,
                    memory.index_bytes >> 20, memory.scratch_bytes >> 20, target.name, target.budget_bytes >> 20,
                    remedy));
}

ResolvedOptions fit_session(const vk::Device& device, const ModelSource& model, const SessionOptions& options,
                            std::uint64_t card_bytes) {
    // A named card is a GPU, whatever runs here: only a GPU that is present knows better what it binds.
    Target target{"the present device",       device.is_cpu(),
                  device.info().memory_bytes, without_reserve(device.free_memory_bytes()),
                  binding_bytes(device),      device.limits().max_matrix_bytes};
    if (card_bytes != 0)
        target = {"the card",
                  false,
                  card_bytes,
                  card_bytes,
                  device.is_cpu() ? kCardBindingBytes : binding_bytes(device),
                  device.is_cpu() ? kCardBindingBytes : device.limits().max_matrix_bytes};
    const Planner planner(model, options, target);
    std::uint32_t limit = model.shape.n_ctx_train;
    if (target.is_cpu) limit = std::min(limit, vk::kSoftwareMaxContext);
    if (const ResolvedOptions all = planner.plan(limit); all.fits) return all;
    if (const std::uint32_t most = planner.largest(limit); most > 0) return planner.plan(most);
    const MemoryPlan least = planner.plan(std::min(limit, 64u)).memory;
    throw Error(
        ErrorCode::kOutOfMemory,
        fmt::format(
            "no context fits: 64 tokens need {} MiB (weights {}, scratch {}) and {} has {} MiB for winnow: use a "
            "smaller model",
            whole_mib(least.total_bytes()), least.weight_bytes >> 20, least.scratch_bytes >> 20, target.name,
            target.budget_bytes >> 20));
}

}  // namespace winnow
