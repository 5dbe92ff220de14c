// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "examples/winnow/commands.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/options.h"
#include "examples/winnow/terminal.h"
#include "winnow/error.h"

namespace winnow::program {
namespace {

constexpr int kOk = 0;
constexpr int kFailure = 1;
constexpr int kInterruptedStatus = 130;

// Mesa maps the files of its cache: a page that the disk has no room for would end the program with a bus error.
void avoid_full_cache() {
    constexpr std::uintmax_t kLeastRoom = 16 << 20;
    const char* folder = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    if ((folder == nullptr || *folder == '\0') && home == nullptr) return;
    const std::string path = folder != nullptr && *folder != '\0' ? folder : fmt::format("{}/.cache", home);
    std::error_code error;
    const std::filesystem::space_info room = std::filesystem::space(path, error);
    if (error || room.available >= kLeastRoom) return;
    log_warning(
        fmt::format("no room for compiled shaders in '{}': every start compiles them again; free some space", path));
    setenv("MESA_SHADER_CACHE_DISABLE", "1", 0);
}

int run_command(const Options& options) {
    if (options.command != Command::kTokenize) avoid_full_cache();
    if (options.list_devices) return list_devices_command(options);
    if (options.sparse.preset == "auto") {
        if (options.command == Command::kInfo) announce_calibration_for_auto(options);
        else calibrate_for_auto(options);
    }
    warn_of_weak_calibration(options, options.sparse.preset);
    switch (options.command) {
        case Command::kChat: {
            // `winnow -m M -p ...` is how scripts written for other runtimes ask for any of the
            // two.
            const bool completes = options.conversation == false || options.json || !options.logits_out.empty();
            return !options.has_command && completes ? run_generate(options) : run_chat(options);
        }
        case Command::kGenerate: return run_generate(options);
        case Command::kTokenize: return run_tokenize(options);
        case Command::kPerplexity: return run_perplexity(options);
        case Command::kInfo: return run_info(options);
        case Command::kBench: return run_bench(options);
        case Command::kEval: return run_eval(options);
        case Command::kCalibrate: return run_calibrate(options);
    }
    return kFailure;
}

int run(const std::vector<std::string>& arguments) {
    const ParsedArguments parsed = parse_arguments(arguments);
    if (!parsed.text.empty()) {
        write_out(parsed.text);
        return kOk;
    }
    const Options& options = parsed.options;
    configure_terminal(options.color, {options.verbosity, options.log_colors, options.log_jsonl});
    if (!options.log_file.empty()) open_log_file(options.log_file);
    for (const std::string& flag : options.idle_flags) log_warning(flag + " has no effect without --sparse NAME");
    return run_command(options);
}

}  // namespace
}  // namespace winnow::program

int main(int argc, char** argv) {
    using namespace winnow::program;
    secure_standard_streams();
    install_signal_handlers();
    try {
        return run(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
    } catch (const Interrupted&) {
        return kInterruptedStatus;
    } catch (const ClosedOutput&) {
        return kFailure;
    } catch (const winnow::Error& error) {
        log_error(error.what());
        return winnow::exit_status(error.code());
    } catch (const std::bad_alloc&) {
        log_error("out of host memory: use a smaller context or text");
        return winnow::exit_status(winnow::ErrorCode::kOutOfMemory);
    } catch (const std::exception& error) {
        log_error(error.what());
        return kFailure;
    } catch (...) {
        log_error("unknown failure");
        return kFailure;
    }
}
