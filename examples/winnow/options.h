// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "winnow/session.h"
#include "winnow/types.h"

namespace winnow::program {

enum class Command { kChat, kGenerate, kTokenize, kPerplexity, kInfo, kBench, kEval, kCalibrate };

/// Sampling as the command line gave it; what is absent comes from the model file, then from
/// SamplingOptions' own defaults.
struct SamplingFlags {
    std::optional<double> temperature;
    std::optional<std::int64_t> top_k;
    std::optional<double> top_p;
    std::optional<double> min_p;
    std::optional<double> repeat_penalty;
    std::optional<std::int64_t> repeat_last_n;  ///< -1 = the whole context
    std::optional<std::uint64_t> seed;          ///< absent = random
    double presence_penalty = 0;                ///< refused unless 0: the sampler has none
    double frequency_penalty = 0;               ///< refused unless 0
};

/// Flags of `bench`; lists are comma separated and may be given several times.
struct BenchFlags {
    std::vector<std::string> n_prompt;
    std::vector<std::string> n_gen;
    std::vector<std::string> pairs;  ///< "pp,tg" each
    std::vector<std::string> depths;
    std::uint32_t repetitions = 5;
    std::string output = "md";
    std::string output_err = "none";  ///< format of a second report, on standard error
    bool stages = false;              ///< also the time of each stage of a decode step
};

/// Flags of `eval`.
struct EvalFlags {
    std::string presets = "exact,twilight,quest,kascade,streaming";
    std::uint32_t n_positions = 256;  ///< decoded and scored after the prefill
    std::string json_file;
    std::string plot_file;
};

/// Flags of `calibrate`.
struct CalibrateFlags {
    std::string output_file;  ///< the sidecar; empty = beside the model
    std::uint32_t index_dim = 0;
    float retrieval_share = -1;  ///< negative = found
    std::string plot_file;
};

/// Everything the command line and the environment say.
struct Options {
    Command command = Command::kChat;
    bool has_command = false;  ///< false: `winnow -m M ...` without a subcommand

    std::string model;
    std::string shape;                 ///< bench, info, calibrate: a known shape in place of a model file
    std::string weight_type = "q4_0";  ///< of that shape's weights
    std::string device;
    bool list_devices = false;

    std::optional<std::string> prompt;
    std::string prompt_file;
    std::optional<std::string> system_prompt;
    std::string system_file;
    std::string input_prefix;  ///< before and after each message of the user
    std::string input_suffix;
    /// \n and the like in -p, -sys, -r, --in-prefix and --in-suffix; absent: resolved by chat and generate, not by
    /// tokenize.
    std::optional<bool> escapes;

    std::optional<std::int64_t> n_ctx;  ///< absent: the command's default; 0 = min(model, what fits)
    std::uint32_t n_chunk = 0;
    std::uint32_t n_batch = 0;  ///< accepted for scripts written for other runtimes
    std::string gpu_layers = "all";
    std::string flash_attention;  ///< empty = not given
    std::string cache_type_k = "f16";
    std::string cache_type_v;  ///< empty = as keys
    int n_threads = 0;         ///< accepted for scripts written for other runtimes; nothing uses it yet

    std::string prompt_cache;     ///< keys and values of earlier runs; empty = none
    std::int64_t n_predict = -1;  ///< negative = until the model ends or the context is full
    SamplingFlags sampling;
    std::vector<std::string> reverse_prompts;

    std::optional<bool> conversation;  ///< -cnv, -no-cnv
    bool single_turn = false;
    bool multiline_input = false;
    std::string chat_template;

    std::string color = "auto";
    bool simple_io = false;
    bool display_prompt = true;
    std::optional<bool> show_timings;
    bool warmup = true;
    std::string log_file;
    bool log_jsonl = false;
    std::string log_colors = "auto";
    std::string completion;  ///< bash, zsh or fish: print what completes the command line there, and exit
    int verbosity = 2;       ///< 0 output only, 1 errors, 2 warnings, 3 information, 4 debug

    bool json = false;
    std::string logits_out;
    std::uint32_t n_windows = 0;  ///< perplexity: 0 = all
    std::string kl_base;          ///< perplexity: logits to write, or to compare with
    bool kl_divergence = false;   ///< perplexity: compare with kl_base

    bool ids = false;
    bool pieces = false;
    bool add_bos = true;
    bool parse_special = true;

    BenchFlags bench;
    EvalFlags eval;
    CalibrateFlags calibrate;
    SparseOptions sparse;
    std::string index_type = "auto";      ///< of index keys
    std::string audit;                    ///< "full", a number, or empty
    std::string sparse_layers;            ///< "2-29,31" or empty
    std::vector<std::string> idle_flags;  ///< settings of sparse attention that were given while it is off
    bool sparse_report = false;           ///< what each layer attended to, after an answer
    bool policies = false;                ///< info: print the table of presets
    std::string fit;                      ///< info: size of a card, "device" for the one present; empty: no search
    float assumed_share = -1;             ///< info, bench: retrieval heads of a --shape; negative = the usual
};

/// What main() does after parsing: run `options`, or print `text` to standard output and exit 0.
struct ParsedArguments {
    Options options;
    std::string text;  ///< help or version; empty: run
};

/// @throws Error(kInvalidArgument) with one line that names the flag.
ParsedArguments parse_arguments(const std::vector<std::string>& arguments);

/// The storage type that -ctk and -ctv name together.
/// @throws Error(kInvalidArgument) for types that winnow does not have yet, or two different ones.
KvType kv_type(const Options& options);

/// Bytes of "8GB", "7.5GiB", "8G" (the same as GiB), "6000MB" or plain bytes.
/// @throws Error(kInvalidArgument) naming the flag, also below 1 MiB.
std::uint64_t parse_size(const std::string& text, const char* flag);

/// Backslash escapes resolved as llama.cpp does: n r t ' " \ and xHH; others stay as they are.
std::string resolve_escapes(const std::string& text);

const char* command_name(Command command);

}  // namespace winnow::program
