// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "examples/winnow/interrupt.h"
#include "examples/winnow/progress.h"
#include "models/text_stream.h"

namespace winnow::program {
namespace {

// Drops from the cache what differs from the prompt. At least the prompt's last token is left over,
// since its logits are needed. Returns how many tokens stay.
std::uint32_t reuse_prefix(Session& session, std::span<const TokenId> prompt) {
    const std::vector<std::int32_t>& cached = session.tokens();
    const std::size_t n_most = std::min(cached.size(), prompt.size() - 1);
    std::size_t n = 0;
    while (n < n_most && cached[n] == prompt[n]) ++n;
    return session.truncate(static_cast<std::uint32_t>(n));
}

// Reads tokens, and says what that alone took: a session counts from the start of the last answer on.
SessionStats prefill(Session& session, std::span<const TokenId> tokens, const Session::Progress& progress) {
    const SessionStats before = session.stats();
    session.prefill(tokens, progress);
    SessionStats read;
    read.n_prompt = session.stats().n_prompt - before.n_prompt;
    read.prompt_seconds = session.stats().prompt_seconds - before.prompt_seconds;
    return read;
}

bool is_among(const std::vector<TokenId>& ids, TokenId id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

void generate(Session& session, const Tokenizer& tokenizer, const AnswerRequest& request, Answer& result,
              const std::function<void(std::string_view)>& on_text) {
    TextStream stream(tokenizer, request.stop_strings);
    const auto emit = [&](const std::string& text) {
        if (text.empty()) return;
        result.text += text;
        if (on_text) on_text(text);
    };
    result.finish_reason = FinishReason::kInterrupted;
    while (!interrupted()) {
        const std::optional<TokenId> token = session.next();
        if (!token) {
            const bool ended = !result.tokens.empty() && is_among(tokenizer.eog(), result.tokens.back());
            const bool limited =
                request.n_predict >= 0 && result.tokens.size() >= static_cast<std::uint64_t>(request.n_predict);
            result.finish_reason = ended     ? FinishReason::kStop
                                   : limited ? FinishReason::kLength
                                             : FinishReason::kContextFull;
            break;
        }
        result.tokens.push_back(*token);
        if (is_among(tokenizer.eog(), *token)) {
            result.finish_reason = FinishReason::kStop;
            break;
        }
        emit(stream.push(*token));
        if (stream.finished()) {
            result.finish_reason = FinishReason::kStop;
            break;
        }
    }
    if (!stream.finished()) emit(stream.flush());
}

const char* kind_name(LayerKind kind) {
    switch (kind) {
        case LayerKind::kDense: return "dense";
        case LayerKind::kSelect: return "select";
        case LayerKind::kAnchor: return "anchor";
        case LayerKind::kReuse: return "reuse";
        case LayerKind::kWindowOnly: return "window";
    }
    return "";
}

}  // namespace

void check_fits(const Session& session, std::size_t n_tokens) {
    if (n_tokens == 0) throw Error(ErrorCode::kInvalidArgument, "the prompt is empty: give some text");
    if (n_tokens <= session.n_ctx()) return;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the prompt has {} tokens but the context holds {}: shorten it or raise -c", n_tokens,
                            session.n_ctx()));
}

Answer answer(Session& session, const Tokenizer& tokenizer, const AnswerRequest& request,
              const std::function<void(std::string_view)>& on_text) {
    check_fits(session, request.prompt.size());
    Answer result;
    result.n_reused = reuse_prefix(session, request.prompt);
    std::span<const TokenId> rest = std::span(request.prompt).subspan(result.n_reused);
    const std::uint32_t n_room = session.n_ctx() - static_cast<std::uint32_t>(request.prompt.size()) + 1;
    const std::uint32_t n_limit =
        request.n_predict < 0 ? n_room : static_cast<std::uint32_t>(std::min<std::int64_t>(request.n_predict, n_room));
    Progress progress("reading the prompt", Progress::Unit::kTokens);
    const auto on_progress = [&progress](std::uint32_t done, std::uint32_t total) {
        progress.update(done, total);
        return !interrupted();
    };
    if (n_limit == 0) {
        result.stats = prefill(session, rest, on_progress);
        result.n_read = result.stats.n_prompt;
        result.finish_reason = interrupted() ? FinishReason::kInterrupted : FinishReason::kLength;
        progress.clear();
        if (request.on_prompt_read && !interrupted()) request.on_prompt_read();
        return result;
    }
    SessionStats before = {};  // of what is read here already
    try {
        if (request.on_prompt_read) {
            before = prefill(session, rest.first(rest.size() - 1), on_progress);
            progress.clear();
            if (interrupted()) {
                result.finish_reason = FinishReason::kInterrupted;
                result.stats = before;
                result.n_read = before.n_prompt;
                return result;
            }
            request.on_prompt_read();
            rest = rest.last(1);
        }
        session.start(rest, request.sampling, tokenizer.eog(), n_limit, on_progress);
        progress.clear();
        generate(session, tokenizer, request, result, on_text);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::kDeviceLost) session.finish();
        throw;
    } catch (...) {
        session.finish();
        throw;
    }
    session.finish();
    result.stats = session.stats();
    result.stats.n_prompt += before.n_prompt;
    result.stats.prompt_seconds += before.prompt_seconds;
    result.n_read = result.stats.n_prompt + (result.tokens.empty() ? 0 : 1);
    return result;
}

const char* finish_name(FinishReason reason) {
    switch (reason) {
        case FinishReason::kStop: return "stop";
        case FinishReason::kLength:
        case FinishReason::kContextFull: return "length";
        case FinishReason::kInterrupted: return "interrupted";
    }
    return "";
}

double per_second(std::uint64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

std::string speed_text(std::uint64_t n, double seconds, const char* before) {
    return n == 0 ? "" : fmt::format("{}{:.1f} t/s", before, per_second(n, seconds));
}

std::string describe_sparse(const Session& session) {
    const SparseReport report = session.sparse_report();
    const SparsePolicy& policy = session.sparse_policy();
    if (report.n_steps == 0)
        return policy.is_dense() ? "sparse attention is off\n"
                                 : fmt::format("{}: no step was sparse; below {} tokens steps are dense\n", policy.name,
                                               policy.min_ctx);
    const ModelShape& shape = session.shape();
    const auto mean = [](const std::vector<float>& values, std::size_t row, std::size_t n) {
        double sum = 0;
        std::size_t n_known = 0;
        for (std::size_t i = row * n; i < (row + 1) * n; ++i) {
            if (std::isnan(values[i])) continue;
            sum += static_cast<double>(values[i]);
            ++n_known;
        }
        return n_known == 0 ? NAN : sum / static_cast<double>(n_known);
    };
    std::string text =
        fmt::format("{}: {} sparse steps, {:.2f} % of the tokens attended, {:.2f} MB read per token\n", policy.name,
                    report.n_steps, 100 * report.attended_share, report.kv_bytes_per_token / 1e6);
    if (report.n_audits != 0)
        text += fmt::format(
            "captured attention mass: mean {:.4f}, p5 {:.4f}, min {:.4f}; without sinks {:.4f}, {:.4f}, "
            "{:.4f}\n",
            report.mass_mean, report.mass_p5, report.mass_min, report.rest_mean, report.rest_p5, report.rest_min);
    text += report.n_audits != 0 ? "layer  kind    attended  captured\n" : "layer  kind    attended\n";
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
        text += fmt::format("{:5}  {:<6} {:7.2f} %", layer, kind_name(policy.layers[layer].kind),
                            100 * mean(report.layer_head_share, layer, shape.n_kv_heads));
        const double mass = mean(report.layer_head_mass, layer, shape.n_heads);
        text += std::isnan(mass) ? "\n" : fmt::format("  {:8.4f}\n", mass);
    }
    return text;
}

std::string describe_stats(const Answer& answer, const Session& session) {
    const SessionStats& stats = answer.stats;
    const std::string cached = answer.n_reused == 0 ? "" : fmt::format(", {} from the cache", answer.n_reused);
    std::string line =
        fmt::format("[ prompt {} tok{}{} | gen {} tok{} | ctx {}/{}", answer.n_read,
                    speed_text(stats.n_prompt, stats.prompt_seconds, " "), cached, stats.n_generated,
                    speed_text(stats.n_generated, stats.generate_seconds, " "), session.n_cached(), session.n_ctx());
    const SparseReport sparse = session.sparse_report();
    if (sparse.n_steps > 0) line += fmt::format(" | kept {:.1f} %", 100 * sparse.attended_share);
    if (sparse.n_audits > 0)
        line += fmt::format(" | attention mass without sinks {:.3f}, p5 {:.3f}, min {:.3f}", sparse.rest_mean,
                            sparse.rest_p5, sparse.rest_min);
    else if (sparse.n_unaudited > 0) line += " | attention mass n/a: the rest is not in the cache";
    return line + " ]";
}

}  // namespace winnow::program
