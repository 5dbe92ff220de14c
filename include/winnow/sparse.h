// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "winnow/error.h"
#include "winnow/types.h"

namespace winnow {

/// What a row of keys is scored by. DO NOT CHANGE THE VALUES: shaders/common/interface.h has the same.
enum class Scorer : std::uint32_t {
    kExact = 0,       ///< q . k of every token
    kBox = 1,         ///< upper bound from a block's per-channel min and max (Quest, arXiv 2406.10774)
    kMean = 2,        ///< q . mean key of a block
    kLowdim = 3,      ///< index query . index key of every token (RTPurbo 2605.16928, FASA 2602.03152)
    kLowdimMean = 4,  ///< index query . mean index key of a block (HISA, arXiv 2603.28458)
    kCodes = 5,       ///< index query . coarse code of every token's index key (IndexCodes)
};

/// How much is kept. Values are the shaders'.
enum class BudgetRule : std::uint32_t {
    kTopK = 0,       ///< the best `budget` tokens
    kTopP = 1,       ///< the smallest set that holds `mass` of every query head's estimated attention
    kThreshold = 2,  ///< every token whose estimated probability reaches `threshold`
};

/// How the query heads of a kv head agree on one ranking. Values are the shaders'.
enum class HeadPool : std::uint32_t {
    kMax = 0,   ///< largest of their estimated probabilities
    kMean = 1,  ///< mean of them
    kEach = 2,  ///< each ranks and cuts for itself; what any of them keeps is kept
};

/// How index keys are coded, three bits a dimension on average: a filter by token that reads a fifth of what the keys
/// take. A dimension has 2^bits values, and the code of a key is the place of the nearest. DO NOT CHANGE kCodeTerms:
/// shaders/common/interface.h has it too.
constexpr std::uint32_t kMostCodeBits = 6, kCodeTerms = 4;
struct IndexCodes {
    std::vector<std::uint8_t> bits;  ///< [n_layers, n_kv_heads, index_dim], 0 to kMostCodeBits; what shares a word of
                                     ///< 16 bits (index_code_word) has 16 at most together
    std::vector<float> curves;       ///< [n_layers, n_kv_heads, index_dim, kCodeTerms] of code_value, which ascends

    bool empty() const { return bits.empty(); }
};
/// What code k stands for, by a cubic in place of a table. Codes depend on it: callers need -ffp-contract=off (CMake).
constexpr float code_value(const float* curve, std::uint32_t code) {
    const auto k = static_cast<float>(code);
    return curve[0] + k * (curve[1] + k * (curve[2] + k * curve[3]));
}
/// Words of 16 bits that the codes of a token take, and the word in which dimension r has its own: from the first word
/// to the last and back, so that the dimensions with the most bits, which come first, are spread over all.
constexpr std::uint32_t index_code_words(std::uint32_t index_dim) { return index_dim < 16 ? 1 : index_dim * 3 / 16; }
constexpr std::uint32_t index_code_word(std::uint32_t index_dim, std::uint32_t r) {
    const std::uint32_t n = index_code_words(index_dim), place = r % n;
    return r / n % 2 == 0 ? place : n - 1 - place;
}

/// One pass of selection: rows of `unit` tokens are scored and some are kept; the next level looks only inside them.
struct SelectLevel {
    Scorer scorer = Scorer::kExact;
    std::uint32_t unit = 1;  ///< tokens of a row: 1, a block (16, 32, 64) or a superblock (1024)
    BudgetRule rule = BudgetRule::kTopP;
    float mass = 0.95f;        ///< in (0, 1]
    std::uint32_t budget = 0;  ///< tokens; of the last level sinks and window included, of the others besides them. 0 =
                               ///< no limit (top-p, threshold)
    std::uint32_t budget_min = 0;
    float budget_share =
        0;  ///< of the cached tokens; sinks and window come besides, in the last level too. The larger of both limits
    float threshold = 0;
};

enum class LayerKind {
    kDense,       ///< attends to everything
    kSelect,      ///< selects, then attends to its selection
    kAnchor,      ///< attends to everything and selects for the layers that reuse it
    kReuse,       ///< attends to the selection of an earlier layer
    kWindowOnly,  ///< sinks and window
};

struct LayerSchedule {
    LayerKind kind = LayerKind::kDense;
    std::uint32_t source = 0;             ///< kReuse: layer whose lists serve
    std::vector<std::uint32_t> head_map;  ///< kReuse: kv head here -> kv head there; empty = the same

    bool selects() const { return kind == LayerKind::kSelect || kind == LayerKind::kAnchor; }
    bool attends_to_all() const { return kind == LayerKind::kDense || kind == LayerKind::kAnchor; }
};

/// What the last level of a preset should be set to on one model, so that its exactly audited attention mass reaches a
/// target.
struct PresetSetting {
    std::string preset;
    float mass = 0;             ///< presets that cut by mass; 0 = by budget
    std::uint32_t budget = 0;   ///< tokens, of presets that cut by budget
    float budget_share = 0;     ///< the same as a share of the cached tokens, for contexts longer than the measured one
    float captured = 0;         ///< audited mass with it, mean over layers, heads and steps
    float bytes_per_token = 0;  ///< keys, values, summaries and index keys that a step then read
    float repeat_ratio = 0;     ///< perplexity of repeated random tokens over that of dense attention; 0 = not measured
};

/// What `winnow calibrate` found out about a model; lives in the sidecar MODEL.winnow.gguf. Arrays run [n_layers,
/// n_kv_heads, ...]; windowed layers have zeros.
struct Calibration {
    std::uint32_t n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
    std::uint32_t index_dim = 0;
    std::uint32_t target_ctx = 0;   ///< tokens that the moments were rotated to
    std::vector<float> index_maps;  ///< [..., A and B, index_dim, head_dim]: index query A q, index key B k, after RoPE
    IndexCodes codes;               ///< of the index keys; empty in sidecars that knew none
    std::vector<std::uint32_t>
        index_pairs;                  ///< [..., index_dim] dimensions of the RoPE pairs that predict scores best (FASA)
    std::vector<float> temperatures;  ///< [...] factor on index scores that makes the estimated mass unbiased
    std::vector<float> induction, echo, retrieval, far_mass;  ///< [n_layers, n_heads] scores of heads, 0 to 1
    std::vector<std::uint8_t> full_heads;  ///< [...] 1 = retrieval head, keeps every token; 0 = sinks and a window do
    float full_share = 1;                  ///< retrieval heads among the kv heads of layers without a window
    std::vector<std::uint32_t> anchors;    ///< full layers whose selection serves the full layers after them, ascending
    std::vector<std::uint32_t> head_maps;  ///< [...] kv head of the layer's anchor whose selection serves
    std::vector<float> similarity;  ///< [n_layers, n_layers] mass of the column's best tokens that the row's hold
    bool checked = false;           ///< the roles stood the test of repeated random tokens
    bool quick = false;             ///< learnt from little text: nothing held out, nothing checked
    std::vector<std::uint32_t> refresh_layers;  ///< full layers that attend to everything in hylra, ascending
    std::vector<std::uint32_t> refresh_maps;    ///< [...] kv head of the refreshing layer before whose selection serves
    std::vector<float> overlap;  ///< [n_layers, n_layers] share of the column's best tokens that are the row's too
    /// Of the index and of RoPE pairs on text that no moment has seen, [n_layers, n_heads]: attention mass of the 64
    /// tokens that they choose over that of the best 64, and how many of those they find. Empty = not measured; -1
    /// where a head was not.
    std::vector<float> index_mass, index_recall, pair_mass, pair_recall;
    std::vector<float> captured_mass;  ///< [...] true mass of what holds an estimated 0.9; empty = not measured, -1 =
                                       ///< this head was not
    std::string preset;                ///< recommended for `auto`
    float mass = 0;                    ///< its attention mass; 0 = the preset's own
    std::vector<PresetSetting> settings;  ///< what presets use unless told otherwise
};

/// A sparse attention method as data. Every method of the literature that winnow implements is a preset of this.
struct SparsePolicy {
    std::string name = "dense";
    std::vector<SelectLevel> levels;  ///< coarse to fine; the last one keeps tokens
    HeadPool pool = HeadPool::kMax;
    std::uint32_t sink = 4;     ///< first tokens, always attended
    std::uint32_t window = 64;  ///< last tokens, always attended (rounded up to whole blocks)
    std::uint32_t min_ctx =
        0;  ///< below this many tokens the dense step runs; heads whose cache is a ring see their window even then
    std::uint32_t refresh = 1;          ///< select anew every so many tokens
    float cosine = 2;                   ///< or when the query's cosine to the last selecting one falls below; > 1 = off
    float value_skip = 0;               ///< lambda of BLASST times the context length (arXiv 2512.12087); 0 = off
    std::vector<LayerSchedule> layers;  ///< one per layer of the model
    std::uint32_t index_dim = 0;        ///< width of index keys; 0 = none
    IndexType index_type = IndexType::kF16;
    std::shared_ptr<const std::vector<float>> index_maps;  ///< [n_layers, n_kv_heads, A and B, index_dim, head_dim]
    std::shared_ptr<const IndexCodes> index_codes;         ///< where a level scores codes
    std::vector<std::uint8_t> local_heads;  ///< [n_layers, n_kv_heads] 1 = sees sinks and a window only; empty = none
    std::uint32_t local_window = 0;         ///< of local heads; 0 = a part of the context, within limits:
    float local_share = 0.1f;
    std::uint32_t local_least = 512, local_most = 8192;
    /// What leaves the window of a local head is not lost: all of it together counts as one token, with the mean of the
    /// keys, the mean of the values and their number as its weight (RazorAttention's compensation token, arXiv
    /// 2407.15891). Prefill attends without it.
    bool compensate = false;
    bool needs_sidecar = false;  ///< and has none
    bool steered = false;        ///< an audit may widen budgets between steps: lists have room for everything

    bool is_dense() const { return name == "dense"; }
    /// @param head layer * n_kv_heads + kv head.
    bool is_local(std::size_t head) const { return !local_heads.empty() && local_heads[head] != 0; }
    bool has_local_heads() const {
        return std::any_of(local_heads.begin(), local_heads.end(), [](std::uint8_t local) { return local != 0; });
    }
    /// @throws Error(kInvalidArgument) in one line: mass outside (0, 1], a budget below sink + window, reuse of a later
    /// or listless layer, a head map out of range, units that do not nest.
    void check(std::uint32_t n_layers, std::uint32_t n_kv_heads) const;
};

/// Settings that the command line may change in any preset; negative or 0 = the preset's own.
struct SparseOverrides {
    float mass = -1;
    std::uint32_t budget = 0;
    std::int32_t sink = -1;
    std::int32_t window = -1;
    std::int32_t min_ctx = -1;
    std::optional<IndexType> index_type = std::nullopt;  ///< absent: int8 beside a quantised cache, else f16
    std::uint32_t block = 0;   ///< tokens of a block, where the preset scores blocks: 16, 32 or 64
    bool compensate = false;   ///< SparsePolicy::compensate; refused where no head is local
    bool every_layer = false;  ///< also the first layers, which some presets leave dense
};

/// A row of `winnow info --policies`.
struct PresetInfo {
    std::string_view name, scorer, filter, budget, schedule, paper;
};
const std::vector<PresetInfo>& sparse_presets();

/// Presets whose settings a calibration tunes.
const std::vector<std::string>& tuned_presets();

/// Whether the preset does more, or works only, with a calibration.
bool uses_calibration(std::string_view preset);

/// The preset for a model of so many layers; windowed layers (by `windowed`) stay dense. `calibration` may be null.
/// @throws Error(kInvalidArgument) listing the names.
SparsePolicy make_preset(std::string_view name, const std::vector<bool>& windowed,
                         const SparseOverrides& overrides = {}, const Calibration* calibration = nullptr);

}  // namespace winnow
