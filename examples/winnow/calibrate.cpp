// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "examples/winnow/calibrate_report.h"
#include "examples/winnow/commands.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/file_io.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/model_search.h"
#include "examples/winnow/progress.h"
#include "examples/winnow/terminal.h"
#include "models/model_config.h"
#include "models/sidecar.h"
#include "runtime/io/safe_path.h"

namespace winnow::program {
namespace {

constexpr std::uint32_t kContext = 4096, kQuickContext = 768;
constexpr const char* kNoPlace = "no calibration of this model and no cache to keep one: selecting by exact scores";

// A bar for each step in turn.
class Steps {
public:
    explicit Steps(bool quick) : quick_(quick) {}
    void update(const std::string& step, std::uint64_t done, std::uint64_t total) {
        throw_if_interrupted();
        if (step != step_) {
            clear();
            step_ = step;
            // A quick calibration was announced as a whole, by a command that is about something else.
            if (quick_) log_info("calibrating: " + step);
            else announce_step("calibrating: " + step);
            bar_.emplace(step, Progress::Unit::kTokens);
        }
        bar_->update(done, total);
    }
    void clear() {
        if (bar_) bar_->clear();
        bar_.reset();
        step_.clear();
    }

private:
    bool quick_;
    std::string step_;
    std::optional<Progress> bar_;
};

struct Learned {
    Calibration calibration;
    CalibrationReport report;
    ModelShape shape;
};

void check_length(std::size_t n_tokens, std::uint32_t n_ctx) {
    const std::uint32_t least = least_calibration_tokens(n_ctx);
    if (n_tokens < least)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("the text has {} tokens: calibration needs {} or more, better 6000", n_tokens, least));
}

Learned learn(const Options& options, ModelSource model, const CalibrationInput& input, std::uint32_t n_ctx,
              bool quick) {
    Options dense = options;
    dense.sparse = {};
    dense.audit.clear();
    dense.cache_type_k = dense.cache_type_v = "f16";
    CalibrateOptions settings;
    settings.index_dim = options.calibrate.index_dim;
    settings.full_share = options.calibrate.retrieval_share;
    settings.quick = quick;
    if (!quick) settings.target_ctx = context_size(options, 0);
    Steps steps(quick);
    settings.on_progress = [&steps](const std::string& step, std::uint64_t done, std::uint64_t total) {
        steps.update(step, done, total);
    };
    Learned learned;
    learned.shape = model.shape;
    const std::unique_ptr<Session> session = open_session(dense, std::move(model), n_ctx);
    learned.calibration = calibrate(*session, input, settings, learned.report);
    steps.clear();
    return learned;
}

Learned learn(const Options& options, const Vocabulary& vocabulary, const std::string& text, std::uint32_t n_ctx,
              bool quick) {
    n_ctx = std::min(n_ctx, trained_context(vocabulary.file));
    const CalibrationInput input(*vocabulary.tokenizer, text);
    check_length(input.text.size(), n_ctx);  // before the weights are read
    return learn(options, open_model(vocabulary.path.string()), input, n_ctx, quick);
}

std::uint32_t calibration_context(const Options& options) {
    return options.n_ctx.value_or(0) > 0 ? std::min(context_size(options, 0), kContext) : kContext;
}

// Shows what was learnt and writes it where a file is wanted.
void report(const Options& options, const Learned& learned, const std::filesystem::path& path,
            const std::string& hash) {
    if (!path.empty()) write_sidecar(path, learned.calibration, hash);
    if (!options.calibrate.plot_file.empty()) {
        OutputFile plot(options.calibrate.plot_file);
        plot.write(calibration_svg(learned.calibration));
        plot.commit();
    }
    write_out(calibration_table(learned.calibration, learned.report, learned.shape));
    if (!path.empty()) write_out(fmt::format("\nwrote {}\n", safe_path(path)));
}

// Random weights of a known shape, to see what calibrating such a model costs on a device.
int calibrate_shape(const Options& options) {
    if (!options.prompt_file.empty())
        throw Error(ErrorCode::kInvalidArgument, "-f needs a model's tokenizer: with --shape the tokens are random");
    check_writable(options.calibrate.output_file);
    check_writable(options.calibrate.plot_file);
    ModelSource model = open_shape(options, true);
    const std::uint32_t n_ctx = std::min(calibration_context(options), model.shape.n_ctx_train);
    const CalibrationInput input(model.shape.n_vocab, most_calibration_tokens(n_ctx));
    report(options, learn(options, std::move(model), input, n_ctx, false), options.calibrate.output_file,
           fmt::format("random {} {}", options.shape, options.weight_type));
    return 0;
}

}  // namespace

int run_calibrate(const Options& options) {
    if (!options.shape.empty()) return calibrate_shape(options);
    const Vocabulary vocabulary = open_vocabulary(options);
    const std::string text = options.prompt_file.empty() ? builtin_calibration_text() : read_file(options.prompt_file);
    const std::filesystem::path beside = sidecar_beside(vocabulary.path);
    const std::filesystem::path path =
        options.calibrate.output_file.empty() ? beside : std::filesystem::path(options.calibrate.output_file);
    check_writable(path.string());
    check_writable(options.calibrate.plot_file);
    report(options, learn(options, vocabulary, text, calibration_context(options), false), path,
           model_hash(vocabulary.file));
    std::error_code ignored;
    if (!std::filesystem::equivalent(path, beside, ignored))
        write_out(fmt::format("it is used once it lies beside the model, as {}\n", safe_path(beside)));
    return 0;
}

void calibrate_for_auto(const Options& options) {
    if (options.model.empty()) return;  // the command itself says what is missing
    const Vocabulary vocabulary = open_vocabulary(options);
    if (find_calibration(vocabulary.file, read_model_shape(vocabulary.file))) return;
    const std::string hash = model_hash(vocabulary.file);
    const std::filesystem::path path = sidecar_in_cache(hash);
    if (path.empty()) {
        log_warning(kNoPlace);
        return;
    }
    try {  // before the work
        std::filesystem::create_directories(path.parent_path());
        check_writable(path.string());
    } catch (const std::exception&) {
        log_warning(
            fmt::format("no calibration of this model, and one could not be kept in '{}': selecting by exact "
                        "scores; set XDG_CACHE_HOME to a directory that can be written",
                        safe_path(path.parent_path())));
        return;
    }
    log_warning(
        "no calibration of this model yet: making a quick one, this once (winnow calibrate makes a "
        "better one)");
    try {
        Options quick = options;
        quick.calibrate = {};
        const Learned learned = learn(quick, vocabulary, builtin_calibration_text(), kQuickContext, true);
        write_sidecar(path, learned.calibration, hash);
        if (!learned.report.has_structure)
            log_warning("no head of this model looks back at copies or at the needle: selecting by exact scores");
        log_info(fmt::format("calibrated in {:.0f} s: {}", learned.report.seconds, safe_path(path)));
    } catch (const Error& error) {
        if (error.code() != ErrorCode::kInvalidArgument && error.code() != ErrorCode::kIo) throw;
        log_warning(fmt::format("not calibrated ({}): selecting by exact scores", error.what()));
    }
}

void announce_calibration_for_auto(const Options& options) {
    if (options.model.empty()) return;
    const Vocabulary vocabulary = open_vocabulary(options);
    if (find_calibration(vocabulary.file, read_model_shape(vocabulary.file))) return;
    const std::filesystem::path path = sidecar_in_cache(model_hash(vocabulary.file));
    if (path.empty()) {
        log_note(kNoPlace);
        return;
    }
    log_note(
        fmt::format("no calibration of this model yet: its first answer with --sparse auto makes a quick one from a "
                    "built-in page and keeps it as '{}'; these figures are of exact, which auto is without one",
                    safe_path(path)));
}

void warn_of_weak_calibration(const Options& options, const std::string& preset) {
    // What quest and twilight take of a sidecar, their settings, a quick one does not have; for auto it is made.
    if (preset == "auto" || preset == "quest" || preset == "twilight") return;
    if (options.model.empty() || !uses_calibration(preset)) return;
    const GgufFile file = GgufFile::open(find_model(options.model));
    const std::shared_ptr<const Calibration> calibration = find_calibration(file, read_model_shape(file));
    if (!calibration) return;
    const bool drops = preset == "rtpurbo" || preset == "duo" || preset == "razor";
    if (drops && !calibration->checked)
        log_warning(
            fmt::format("{} drops what most heads saw, and this model's {}was never checked for that, or failed: make "
                        "one with winnow calibrate, and read its safety check",
                        preset, calibration->quick ? "quick calibration, of --sparse auto, " : "sidecar "));
    else if (calibration->quick)
        log_warning(
            fmt::format("{} goes by the quick calibration that --sparse auto made of this model from a built-in page: "
                        "winnow calibrate -m MODEL -f TEXT makes a better one",
                        preset));
}

}  // namespace winnow::program
