// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "winnow/device.h"
#include "winnow/error.h"
#include "winnow/sparse.h"
#include "winnow/types.h"

namespace winnow {

/// Memory that a session takes when it is opened, by kind: the sizes of its buffers. What the device makes of them is a
/// little more, as each is rounded up to its alignment.
struct MemoryPlan {
    std::uint64_t weight_bytes = 0;
    std::uint64_t kv_bytes = 0;       ///< K and V pools and block tables
    std::uint64_t index_bytes = 0;    ///< summaries, index keys, lists of sparse attention
    std::uint64_t scratch_bytes = 0;  ///< activations of decode and prefill, logits
    std::uint64_t total_bytes() const { return weight_bytes + kv_bytes + index_bytes + scratch_bytes; }
};

/// Layers [begin, end), counted from 0; kOpenEnd as the end means up to the model's last layer. A range that begins or
/// ends beyond the model's layers is refused with Error(kInvalidArgument), which names their number, where a session is
/// opened and by use_sparse().
struct LayerRange {
    static constexpr std::uint32_t kOpenEnd = 0xffffffff;
    std::uint32_t begin = 0, end = 0;
};

/// Which sparse attention a session uses.
struct SparseOptions {
    std::string preset = "off";
    SparseOverrides overrides;
    std::vector<LayerRange>
        layers;  ///< the preset's layers, all of them; the others stay dense. Empty = as the preset says
    std::uint32_t audit_every = 0;  ///< exact captured mass of one of so many (layer, step) pairs; 1 = all, 0 = none
    std::shared_ptr<const Calibration>
        calibration;  ///< null: the model's sidecar, read when the preset has a use for it
};

/// What sparse attention read and kept since the last answer began.
struct SparseReport {
    std::uint64_t n_steps = 0;      ///< sparse steps
    double attended_share = 1;      ///< tokens attended of those cached, mean over full layers, kv heads and steps
    double kv_bytes_per_token = 0;  ///< keys, values, summaries and index keys read per step
    std::uint64_t n_audits = 0;     ///< (step, layer, query head) records
    std::uint64_t n_unaudited =
        0;  ///< audits asked of heads whose cache is a ring: what they lost is not there to compare with
    double mass_mean = 1, mass_p5 = 1, mass_min = 1;  ///< captured mass
    double rest_mean = 1, rest_p5 = 1, rest_min = 1;  ///< the same without the sinks
    std::vector<float> layer_head_mass;               ///< mean [n_layers, n_heads]; NaN where nothing was audited
    std::vector<float> layer_head_share;  ///< mean [n_layers, n_kv_heads] of tokens attended; 1 for dense layers
};

struct SessionOptions {
    DeviceOptions device;
    std::uint32_t n_ctx = 0;    ///< tokens of the cache; 0 = min(what the model was trained for, what fits)
    std::uint32_t n_chunk = 0;  ///< most tokens of a prefill chunk, and those of the first; 0 = the device's default
    std::uint32_t steps_in_flight = 2;  ///< decode steps queued ahead; no more than fit rings beside their windows
    bool replay_steps = true;           ///< record a step once; false records each anew, which benches compare
    KvType kv_type = KvType::kF16;
    SparseOptions sparse;
    /// Called while weights are uploaded: done and total bytes.
    std::function<void(std::uint64_t, std::uint64_t)> on_load;
};

/// The most tokens that SamplingOptions::repeat_last_n can ask for.
constexpr std::uint32_t kMostRepeatTokens = 1024;

/// Counts and times of the last answer.
struct SessionStats {
    std::uint32_t n_prompt = 0;  ///< tokens prefilled (without those already in the cache)
    double prompt_seconds = 0;
    std::uint32_t n_generated = 0;
    double generate_seconds = 0;
};

/// A model on a device with one sequence: the ordinary user's class. Not thread-safe.
/// open() takes all memory that prefill and decode need; evaluate() takes 32 rows of logits more when it is first
/// called, capture() the queries for the time of the call, use_sparse() the buffers of its policy.
class Session {
public:
    /// @throws Error(kBadFile | kNoDevice | kUnsupported | kOutOfMemory | kInvalidArgument).
    static std::unique_ptr<Session> open(const std::string& model_path, const SessionOptions& options);
    virtual ~Session() = default;

    virtual const ModelShape& shape() const = 0;
    virtual const DeviceInfo& device() const = 0;
    virtual std::uint32_t n_ctx() const = 0;
    virtual std::uint32_t n_chunk() const = 0;  ///< most tokens of a prefill chunk
    virtual const MemoryPlan& memory() const = 0;
    virtual std::uint32_t n_dependent_dispatches() const = 0;  ///< of one decode step

    /// Tokens whose keys and values are in the cache, and their ids.
    virtual std::uint32_t n_cached() const = 0;
    virtual const std::vector<std::int32_t>& tokens() const = 0;
    /// Forgets everything after the first n tokens. Windowed layers cannot look back past what their rings still hold:
    /// then less is kept. @returns tokens kept.
    virtual std::uint32_t truncate(std::uint32_t n) = 0;
    /// What truncate(n) would return, between answers.
    virtual std::uint32_t n_kept(std::uint32_t n) const = 0;

    /// Puts tokens into the cache, in chunks that measured time bounds (about 1 s on a GPU, 0.5 s on a software
    /// driver). `progress(done, total)` runs after each chunk, and also between the submissions of one (a tenth of a
    /// second); returning false stops early: chunks that were done stay, the one under way does not count.
    /// @throws Error(kInvalidArgument) when they do not fit: the message has both numbers.
    using Progress = std::function<bool(std::uint32_t done, std::uint32_t total)>;
    virtual void prefill(std::span<const std::int32_t> tokens, const Progress& progress = {}) = 0;

    /// Prefills like prefill() and gives the logits that follow each token, in chunks:
    /// rows(first, logits) with logits f32 [n, n_vocab] for tokens first .. first+n.
    using LogitRows = std::function<void(std::uint32_t first, std::span<const float> logits)>;
    virtual void evaluate(std::span<const std::int32_t> tokens, const LogitRows& rows,
                          const Progress& progress = {}) = 0;

    /// Begins an answer after the cached tokens and `prompt` (at least one token, may follow a truncate). Only the last
    /// token of the prompt is left to the first decode step. @throws Error(kInvalidArgument) for an empty prompt, one
    /// that does not fit, and a repeat_last_n above kMostRepeatTokens.
    virtual void start(std::span<const std::int32_t> prompt, const SamplingOptions& sampling,
                       const std::vector<std::int32_t>& stop_tokens, std::uint32_t n_limit,
                       const Progress& progress = {}) = 0;
    /// The next token, or nullopt when the answer is over (stop token returned before, limit, full context).
    /// @throws Error(kBadFile) when the model computes what is not finite; so do prefill(), evaluate() and
    /// decode_logits().
    virtual std::optional<std::int32_t> next() = 0;
    /// Ends the answer; queued steps are waited for. The cache then holds every token that next() returned except the
    /// last.
    virtual void finish() = 0;

    virtual const SessionStats& stats() const = 0;

    /// Writes the cached tokens with their keys and values to a file, for restore_cache(). Ends an answer. The file
    /// appears under its name when it is complete; a new one is readable by its owner only, one that is replaced hands
    /// on its mode. @throws Error(kIo), or Error(kInvalidArgument) where `path` is something else than a prompt cache
    /// or the model is no file; what was at `path` is then as it was.
    virtual void save_cache(const std::string& path) = 0;
    /// Puts into the cache as many of `tokens`, from the first on, as a file of save_cache() begins with and n_ctx
    /// holds, in place of what it holds. Where rings of windowed layers no longer hold what the next token looks back
    /// to, and where no token is in common, nothing changes. Model, cache type and, of each head, window, sinks and
    /// length of the ring must be the file's; n_ctx may differ as far as these do not follow from it. Of tokens that
    /// sparse steps decoded, and what follows them, nothing is taken under another policy, and nothing at all where the
    /// roles of heads changed while tokens were cached. @returns tokens restored.
    /// @throws Error(kBadFile | kIo | kInvalidArgument: no prompt cache at all), in one line. What does not fit, or is
    /// damaged, is refused before the cache is touched; should a copy to the device fail after that, nothing is cached.
    virtual std::uint32_t restore_cache(const std::string& path, std::span<const std::int32_t> tokens) = 0;

    /// Changes the sparse attention between answers; the cache stays, its summaries are made anew.
    virtual void use_sparse(const SparseOptions& sparse) = 0;
    virtual const SparsePolicy& sparse_policy() const = 0;
    virtual SparseReport sparse_report() const = 0;
    /// Teacher-forced decoding: runs the decode step on `token` at the end of the cache and gives the logits [n_vocab]
    /// that follow.
    virtual std::span<const float> decode_logits(std::int32_t token) = 0;

    /// For calibration: prefills like prefill() and gives the queries of each chunk after RoPE and scaling, layer by
    /// layer, f16 [n, n_heads, head_dim] for tokens first .. first+n. Takes device memory for the time of the call.
    using QueryRows =
        std::function<void(std::uint32_t layer, std::uint32_t first, std::span<const std::uint16_t> queries)>;
    virtual void capture(std::span<const std::int32_t> tokens, const QueryRows& rows,
                         const Progress& progress = {}) = 0;
    /// Keys of a layer after RoPE, f16 [n_cached, n_kv_heads, head_dim]; zeros where a windowed layer holds them no
    /// more.
    virtual std::vector<std::uint16_t> cached_keys(std::uint32_t layer) const = 0;

    /// For benches: makes the cache hold n tokens (id 0) with pseudo-random keys and values, without computing them.
    virtual void assume_cached(std::uint32_t n) = 0;
    /// For benches: GPU time of each stage of one decode step at the present depth, in the order of the step.
    struct StageTime {
        std::string stage;
        double microseconds = 0;
    };
    virtual std::vector<StageTime> time_stages() = 0;
};

}  // namespace winnow
