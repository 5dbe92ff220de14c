// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/engine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <limits>
#include <span>

#include "examples/winnow/file_io.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/model_search.h"
#include "examples/winnow/progress.h"
#include "examples/winnow/split.h"
#include "examples/winnow/terminal.h"
#include "models/random_model.h"
#include "models/session_plan.h"
#include "models/sidecar.h"
#include "runtime/vk/device.h"
#include "runtime/vk/pipeline_cache.h"

namespace winnow::program {
namespace {

constexpr std::uint32_t kMostAuditEvery = 1000000;

// winnow runs a model on one device as a whole; a smaller number would silently do something else
// than what was asked.
void check_gpu_layers(const std::string& text, std::uint32_t n_layers) {
    if (text == "all" || text == "auto" || text == "-1") return;
    std::uint64_t n_asked = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n_asked);
    if (error != std::errc{} || end != text.data() + text.size()) {
        throw Error(ErrorCode::kInvalidArgument, fmt::format("-ngl {}: give all, auto or a number of layers", text));
    }
    if (n_asked < n_layers) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("-ngl {}: the model has {} layers and winnow runs none of them on "
                                "the CPU; use -ngl all",
                                text, n_layers));
    }
}

// "2-29,31", "8-": first to last layer, the last included.
std::vector<LayerRange> parse_layers(const std::string& text) {
    std::vector<LayerRange> ranges;
    if (text.empty()) return ranges;
    for (const std::string& part : split(text, ',')) {
        const char* end = part.data() + part.size();
        std::uint32_t first = 0, last = 0;
        auto [at, error] = std::from_chars(part.data(), end, first);
        last = first;
        bool is_open = false;
        if (error == std::errc{} && at != end && *at == '-') {
            is_open = ++at == end;
            if (!is_open) {
                const auto [stop, second] = std::from_chars(at, end, last);
                at = stop;
                error = second;
            }
        }
        // One past the last layer must not be what stands for an open end.
        if (error != std::errc{} || at != end || last < first || last >= LayerRange::kOpenEnd - 1)
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("--sparse-layers {}: give layers such as 2-29 or 0,4,8-", text));
        ranges.push_back({first, is_open ? LayerRange::kOpenEnd : last + 1});
    }
    return ranges;
}

// Presets that select nothing have neither.
void warn_unused(const SparsePolicy& policy, const SparseOptions& sparse) {
    if (!policy.levels.empty() || sparse.preset == "off") return;  // of what is off main() tells
    const SparseOverrides& overrides = sparse.overrides;
    for (const auto& [flag, given] :
         {std::pair{"--sparse-mass", overrides.mass >= 0}, {"--sparse-budget", overrides.budget != 0}})
        if (given)
            log_warning(fmt::format("{} has no effect on --sparse {}, which selects no tokens", flag, policy.name));
}

// A filter by number of tokens bounds the mass, too: who asked for a share should know. Not beside a budget, which is
// the smaller bound and was asked for.
void note_bounded_mass(const SparsePolicy& policy, const SparseOptions& sparse) {
    if (sparse.overrides.mass < 0 || sparse.overrides.budget != 0 || policy.levels.size() < 2) return;
    const SelectLevel& filter = policy.levels.front();
    if (filter.rule != BudgetRule::kTopK) return;
    const std::string tokens = filter.budget_share > 0
                                   ? fmt::format("{:.3g} % of the tokens, at least {}",
                                                 100 * static_cast<double>(filter.budget_share), filter.budget)
                                   : fmt::format("{} tokens", filter.budget);
    log_note(
        fmt::format("--sparse-mass {:.3g}: the filter of {} lets through {}, so that heads whose attention is "
                    "spread over more keep less{}",
                    sparse.overrides.mass, policy.name, tokens,
                    filter.scorer == Scorer::kLowdimMean ? "; one that winnow calibrate makes now goes by mass" : ""));
}

void tell_of_settings(const SparsePolicy& policy, const SparseOptions& sparse) {
    warn_unused(policy, sparse);
    note_bounded_mass(policy, sparse);
}

}  // namespace

SparseOptions sparse_options(const Options& options) {
    SparseOptions sparse = options.sparse;
    if (options.index_type == "f16") sparse.overrides.index_type = IndexType::kF16;
    if (options.index_type == "int8") sparse.overrides.index_type = IndexType::kInt8;
    sparse.layers = parse_layers(options.sparse_layers);
    if (options.audit.empty() || options.audit == "off") return sparse;
    const auto [end, error] =
        std::from_chars(options.audit.data(), options.audit.data() + options.audit.size(), sparse.audit_every);
    if (options.audit == "full") sparse.audit_every = 1;
    else if (error != std::errc{} || end != options.audit.data() + options.audit.size() || sparse.audit_every == 0 ||
             sparse.audit_every > kMostAuditEvery)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("--audit {}: give full or a number from 1 to {}", options.audit, kMostAuditEvery));
    return sparse;
}

SparsePolicy checked_policy(const Options& options, const ModelSource& model, const SparseOptions& sparse) {
    SparsePolicy policy = resolve_policy(model.shape, with_calibration(model, sparse), kv_type(options));
    tell_of_settings(policy, sparse);
    return policy;
}

Vocabulary open_vocabulary(const Options& options) {
    if (options.model.empty()) {
        throw Error(ErrorCode::kInvalidArgument, "no model: give one with -m FILE.gguf; winnow --help lists the rest");
    }
    const std::filesystem::path path = find_model(options.model);
    GgufFile file = GgufFile::open(path);
    std::unique_ptr<Tokenizer> tokenizer = Tokenizer::from_gguf(file);
    return {path, std::move(file), std::move(tokenizer)};
}

std::unique_ptr<Session> open_session(const Options& options, const Vocabulary& vocabulary, std::uint32_t n_ctx) {
    return open_session(options, open_model(vocabulary.path.string()), n_ctx);
}

std::unique_ptr<Session> open_session(const Options& options, ModelSource model, std::uint32_t n_ctx) {
    check_gpu_layers(options.gpu_layers, model.shape.n_layers);
    if (!options.flash_attention.empty())
        log_note(fmt::format("-fa {} has no effect: attention is always fused", options.flash_attention));
    Progress progress("loading", Progress::Unit::kBytes);
    SessionOptions session = session_options(options, model.shape, n_ctx);
    std::unique_ptr<vk::Device> device = vk::Device::open(session.device);
    const bool is_first = !device->pipeline_cache().hit();
    if (const std::string& problem = device->info().cache_problem; !problem.empty()) log_warning(problem);
    session.on_load = [&progress, is_first](std::uint64_t done, std::uint64_t total) {
        throw_if_interrupted();
        if (done < total) progress.update(done, total);
        else if (stderr_is_terminal()) progress.announce("compiling shaders");
        else if (is_first) log_note("compiling shaders, for which a first start takes longer");
    };
    std::unique_ptr<Session> opened = make_session(std::move(device), std::move(model), session);
    progress.clear();
    throw_if_interrupted();
    if (options.n_ctx == 0) log_note(fmt::format("-c 0: a context of {} tokens", opened->n_ctx()));
    tell_of_settings(opened->sparse_policy(), session.sparse);
    log_info(fmt::format("device {} ({}), context {} tokens, {} MiB", opened->device().name, opened->device().driver,
                         opened->n_ctx(), opened->memory().total_bytes() >> 20));
    return opened;
}

void warm_up(Session& session, const Options& options, const SamplingOptions& sampling) {
    // The step would count as an audited one; without an answer there is nothing to time.
    if (!options.warmup || options.n_predict == 0 || sparse_options(options).audit_every != 0) return;
    Progress progress("", Progress::Unit::kNone);
    progress.announce("compiling shaders");
    using Clock = std::chrono::steady_clock;
    const Clock::time_point begin = Clock::now();
    const std::array<TokenId, 2> tokens{};
    const std::size_t n = std::min<std::size_t>(tokens.size(), session.n_ctx());
    session.start(std::span(tokens).first(n), sampling, {}, 1,
                  [](std::uint32_t, std::uint32_t) { return !interrupted(); });
    session.next();
    session.finish();
    session.truncate(0);
    throw_if_interrupted();
    log_info(fmt::format("warm-up: {:.2f} s", std::chrono::duration<double>(Clock::now() - begin).count()));
}

SessionOptions session_options(const Options& options, const ModelShape& shape, std::uint32_t n_ctx) {
    SessionOptions session;
    session.device.select = options.device;
    session.n_ctx = n_ctx;
    session.n_chunk = options.n_chunk;
    session.kv_type = kv_type(options);
    session.sparse = sparse_options(options);
    if (!options.shape.empty() && options.assumed_share >= 0)
        session.sparse.calibration = std::make_shared<Calibration>(assume_calibration(shape, options.assumed_share));
    return session;
}

ModelSource open_shape(const Options& options, bool with_values) {
    if (!options.model.empty()) throw Error(ErrorCode::kInvalidArgument, "give -m or --shape, not both");
    if (const auto type = weight_type_from_name(options.weight_type))
        return with_values ? random_model(options.shape, *type) : random_model_outline(options.shape, *type);
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--type {}: give q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, f16, "
                            "bf16 or f32",
                            options.weight_type));
}

std::uint32_t context_size(const Options& options, std::uint32_t otherwise) {
    return options.n_ctx ? static_cast<std::uint32_t>(*options.n_ctx) : otherwise;
}

std::uint32_t trained_context(const GgufFile& file) {
    const std::string key = std::string(file.get_string("general.architecture")) + ".context_length";
    return static_cast<std::uint32_t>(
        std::min<std::uint64_t>(file.get_uint(key), std::numeric_limits<std::uint32_t>::max()));
}

ChatTemplate open_chat_template(const Options& options, const Vocabulary& vocabulary) {
    if (!options.chat_template.empty()) return ChatTemplate::named(options.chat_template);
    ChatTemplate found = ChatTemplate::from_gguf(vocabulary.file);
    if (found.is_fallback()) {
        log_warning(fmt::format("the model {}: using {}; force another with --chat-template",
                                vocabulary.file.find_string("tokenizer.chat_template")
                                    ? "has a chat template that is unknown"
                                    : "has no chat template",
                                found.name()));
    }
    return found;
}

std::optional<std::string> prompt_text(const Options& options) {
    if (options.prompt) {
        // tokenize takes bytes as they are unless -e asks for it, perplexity and eval always.
        const bool is_answered = options.command == Command::kChat || options.command == Command::kGenerate;
        return options.escapes.value_or(is_answered) ? resolve_escapes(*options.prompt) : *options.prompt;
    }
    if (!options.prompt_file.empty()) return read_file(options.prompt_file);
    return std::nullopt;
}

std::optional<std::string> system_text(const Options& options) {
    if (options.system_prompt) {
        return options.escapes.value_or(true) ? resolve_escapes(*options.system_prompt) : *options.system_prompt;
    }
    if (!options.system_file.empty()) return read_file(options.system_file);
    return std::nullopt;
}

void check_not_blank(const std::string& question) {
    if (question.find_first_not_of(" \t\r\n") == std::string::npos)
        throw Error(ErrorCode::kInvalidArgument, "the prompt is empty: give some text");
}

void warn_of_missing_bytes(const Tokenizer& tokenizer, std::string_view text) {
    constexpr std::size_t kMostNamed = 4;
    std::size_t n_bytes = 0;
    std::vector<std::string> named;
    for (const char byte : tokenizer.missing_bytes()) {
        const auto n = static_cast<std::size_t>(std::count(text.begin(), text.end(), byte));
        if (n == 0) continue;
        n_bytes += n;
        if (named.size() < kMostNamed) named.push_back(fmt::format("0x{:02x}", static_cast<unsigned char>(byte)));
        else if (named.size() == kMostNamed) named.emplace_back("...");
    }
    if (n_bytes != 0)
        log_warning(fmt::format("the model's vocabulary has no token for {} of the text's bytes ({}): left out",
                                n_bytes, fmt::join(named, ", ")));
}

std::string wrapped_input(const Options& options, const std::string& text) {
    const auto part = [&options](const std::string& given) {
        return options.escapes.value_or(true) ? resolve_escapes(given) : given;
    };
    return part(options.input_prefix) + text + part(options.input_suffix);
}

std::vector<std::string> reverse_prompts(const Options& options) {
    std::vector<std::string> texts;
    for (const std::string& text : options.reverse_prompts) {
        if (!text.empty()) texts.push_back(options.escapes.value_or(true) ? resolve_escapes(text) : text);
    }
    return texts;
}

}  // namespace winnow::program
