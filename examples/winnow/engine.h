// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "examples/winnow/options.h"
#include "models/chat_template.h"
#include "models/gguf.h"
#include "models/model.h"
#include "models/tokenizer.h"
#include "winnow/session.h"

namespace winnow::program {

/// A model file without a device: all that `tokenize` needs.
struct Vocabulary {
    std::filesystem::path path;
    GgufFile file;
    std::unique_ptr<Tokenizer> tokenizer;
};

/// @throws Error(kInvalidArgument) without -m, Error(kBadFile).
Vocabulary open_vocabulary(const Options& options);

/// A session on the chosen device with a progress bar while it loads. `n_ctx` 0 = min(model, what
/// fits).
/// @throws what Session::open throws, and Interrupted.
std::unique_ptr<Session> open_session(const Options& options, const Vocabulary& vocabulary, std::uint32_t n_ctx);

/// The same for a model that is open already.
std::unique_ptr<Session> open_session(const Options& options, ModelSource model, std::uint32_t n_ctx);

/// Runs one token through the prefill and the decode step, so that shaders are compiled before the first answer is
/// timed; leaves the cache empty. `sampling` is the answer's. Nothing with --no-warmup, nor with --audit, which
/// would count the step.
/// @throws Interrupted.
void warm_up(Session& session, const Options& options, const SamplingOptions& sampling);

/// The random model of --shape and --type; `with_values` false: only sizes, for a plan.
/// @throws Error(kInvalidArgument) when -m is given too, or for an unknown name.
ModelSource open_shape(const Options& options, bool with_values);

/// What the flags say about a session of a model of this shape, without a progress bar; with --retrieval-share the
/// calibration that a --shape is assumed to have.
/// @throws Error(kInvalidArgument).
SessionOptions session_options(const Options& options, const ModelShape& shape, std::uint32_t n_ctx);

/// --sparse, its settings and --audit. @throws Error(kInvalidArgument).
SparseOptions sparse_options(const Options& options);

/// The policy of these settings on this model, its sidecar included, before anything is allocated; warns of settings
/// that have no effect on it. @throws Error(kInvalidArgument) for a bad name, setting or sidecar, or a missing one.
SparsePolicy checked_policy(const Options& options, const ModelSource& model, const SparseOptions& sparse);

/// -c, or `otherwise` when it was not given.
std::uint32_t context_size(const Options& options, std::uint32_t otherwise);

/// Tokens that the model was trained for. @throws Error(kBadFile) when the file does not say.
std::uint32_t trained_context(const GgufFile& file);

/// The template of --chat-template or of the model, with a warning when it is a guess.
ChatTemplate open_chat_template(const Options& options, const Vocabulary& vocabulary);

/// The text of -p (escapes resolved if the command does that) or -f; nullopt when neither was
/// given.
std::optional<std::string> prompt_text(const Options& options);
std::optional<std::string> system_text(const Options& options);

/// A question of nothing but spaces, as of a script whose variable is empty, would be answered all the same.
/// @throws Error(kInvalidArgument).
void check_not_blank(const std::string& question);

/// Says which bytes of `text` the model has no token for: they are not in what it reads. Nothing where there are none.
void warn_of_missing_bytes(const Tokenizer& tokenizer, std::string_view text);

/// A message of the user between --in-prefix and --in-suffix.
std::string wrapped_input(const Options& options, const std::string& text);

/// -r with escapes resolved; empty ones are dropped.
std::vector<std::string> reverse_prompts(const Options& options);

}  // namespace winnow::program
