// SPDX-License-Identifier: Apache-2.0
#include "models/sidecar.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string_view>
#include <vector>

#include "models/gguf_writer.h"
#include "models/hash.h"
#include "runtime/io/safe_path.h"
#include "runtime/kv/index_codes.h"

namespace winnow {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr const char* kArchitecture = "winnow-calibration";
constexpr std::size_t kSampleBytes = 4096;

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::kBadFile, what); }

// The plain numbers of a calibration, under the names that the file has for them.
template <typename C, typename Visit>
void visit_floats(C& c, Visit&& visit) {
    visit("index_maps", c.index_maps);
    visit("temperatures", c.temperatures);
    visit("induction", c.induction);
    visit("echo", c.echo);
    visit("retrieval", c.retrieval);
    visit("far_mass", c.far_mass);
    visit("similarity", c.similarity);
    visit("overlap", c.overlap);
    visit("index_mass", c.index_mass);
    visit("index_recall", c.index_recall);
    visit("pair_mass", c.pair_mass);
    visit("pair_recall", c.pair_recall);
    visit("captured_mass", c.captured_mass);
    visit("code_curves", c.codes.curves);
}

template <typename T>
std::vector<std::int32_t> as_ints(const std::vector<T>& values) {
    return {values.begin(), values.end()};
}

template <typename T>
void read_ints(const GgufFile& file, const char* key, std::vector<T>& to) {
    const GgufArray* array = file.find_array(std::string("calibration.") + key);
    if (array == nullptr) return;
    if (!array->strings.empty() || !array->floats.empty()) refuse(fmt::format("calibration.{} holds no integers", key));
    for (const std::int64_t value : array->integers) {
        if (value < 0 || value > std::min<std::int64_t>(0xffff, std::numeric_limits<T>::max()))
            refuse(fmt::format("calibration.{} is out of range", key));
        to.push_back(static_cast<T>(value));
    }
}

void add_bytes(Hash& hash, std::span<const std::byte> bytes) { hash.add(bytes.data(), bytes.size()); }
void add_text(Hash& hash, std::string_view text) { hash.add(text.data(), text.size()); }

}  // namespace

std::string model_hash(const GgufFile& file) {
    Hash hash;
    const std::string architecture(file.find_string("general.architecture").value_or(""));
    add_text(hash, architecture);
    for (const auto& [key, value] : file.metadata()) {  // ordered by key
        if (!key.starts_with(architecture + ".")) continue;
        std::string text = key;
        if (const auto* u = std::get_if<std::uint64_t>(&value)) text += fmt::format("={}", *u);
        if (const auto* i = std::get_if<std::int64_t>(&value)) text += fmt::format("={}", *i);
        if (const auto* d = std::get_if<double>(&value)) text += fmt::format("={}", *d);
        add_text(hash, text);
    }
    for (const GgufTensor& tensor : file.tensors()) {
        add_text(hash, tensor.name);
        add_text(hash, fmt::format(":{}", static_cast<std::uint32_t>(tensor.type)));
        add_bytes(hash, std::as_bytes(std::span(tensor.dims)));
        const std::size_t n = std::min(kSampleBytes, tensor.bytes.size());
        add_bytes(hash, tensor.bytes.first(n));
        add_bytes(hash, tensor.bytes.last(n));
    }
    return fmt::format("{:016x}", hash.digest());
}

std::filesystem::path sidecar_beside(const std::filesystem::path& model_path) {
    std::filesystem::path path = model_path;
    if (path.extension() == ".gguf") path.replace_extension();
    path += ".winnow.gguf";
    return path;
}

std::filesystem::path sidecar_in_cache(const std::string& hash) {
    const auto variable = [](const char* name) {
        const char* value = std::getenv(name);
        return std::string(value != nullptr ? value : "");
    };
    if (const std::string off = variable("WINNOW_NO_CACHE"); !off.empty() && off != "0") return {};
    std::filesystem::path folder = variable("XDG_CACHE_HOME");
    if (!folder.is_absolute()) {
        const std::string home = variable("HOME");
        if (home.empty()) return {};
        folder = std::filesystem::path(home) / ".cache";
    }
    return folder / "winnow" / (hash + ".winnow.gguf");
}

void write_sidecar(const std::filesystem::path& path, const Calibration& c, const std::string& hash) {
    GgufWriter writer;
    writer.add_string("general.architecture", kArchitecture);
    writer.add_uint("calibration.version", kVersion);
    writer.add_string("calibration.model", hash);
    writer.add_uint("calibration.n_layers", c.n_layers);
    writer.add_uint("calibration.n_heads", c.n_heads);
    writer.add_uint("calibration.n_kv_heads", c.n_kv_heads);
    writer.add_uint("calibration.head_dim", c.head_dim);
    writer.add_uint("calibration.index_dim", c.index_dim);
    writer.add_uint("calibration.target_ctx", c.target_ctx);
    writer.add_string("calibration.preset", c.preset);
    writer.add_float("calibration.mass", c.mass);
    writer.add_float("calibration.full_share", c.full_share);
    writer.add_ints("calibration.index_pairs", as_ints(c.index_pairs));
    if (!c.codes.empty()) writer.add_ints("calibration.code_bits", as_ints(c.codes.bits));
    writer.add_ints("calibration.full_heads", as_ints(c.full_heads));
    writer.add_ints("calibration.anchors", as_ints(c.anchors));
    writer.add_ints("calibration.head_maps", as_ints(c.head_maps));
    writer.add_ints("calibration.refresh_layers", as_ints(c.refresh_layers));
    writer.add_ints("calibration.refresh_maps", as_ints(c.refresh_maps));
    writer.add_uint("calibration.checked", c.checked ? 1 : 0);
    writer.add_uint("calibration.quick", c.quick ? 1 : 0);
    for (const PresetSetting& s : c.settings) {
        const std::string key = "calibration.setting." + s.preset;
        writer.add_float(key + ".mass", s.mass);
        writer.add_uint(key + ".budget", s.budget);
        writer.add_float(key + ".budget_share", s.budget_share);
        writer.add_float(key + ".captured", s.captured);
        writer.add_float(key + ".bytes_per_token", s.bytes_per_token);
        writer.add_float(key + ".repeat_ratio", s.repeat_ratio);
    }
    visit_floats(c, [&](const char* name, const std::vector<float>& values) {
        if (!values.empty())
            writer.add_tensor(name, WeightType::kF32, {values.size()}, std::as_bytes(std::span(values)));
    });
    writer.write(path);
}

Calibration read_sidecar(const std::filesystem::path& path, const std::string& hash, const ModelShape& shape) {
    const auto advice = [&](const std::string& what) {
        return fmt::format("the sidecar '{}' {}: make it anew with winnow calibrate, or delete it", safe_path(path),
                           what);
    };
    const GgufFile file = GgufFile::open(path);
    try {
        if (file.find_string("general.architecture") != kArchitecture) refuse("is no calibration");
        if (file.get_uint("calibration.version") != kVersion) refuse("is of another version of winnow");
        if (file.get_string("calibration.model") != hash) refuse("was made for another model");
        Calibration c;
        const auto count = [&](const char* key) {
            const std::uint64_t value = file.get_uint(std::string("calibration.") + key);
            if (value > (1u << 24)) refuse(fmt::format("has an impossible {}", key));
            return static_cast<std::uint32_t>(value);
        };
        c.n_layers = count("n_layers");
        c.n_heads = count("n_heads");
        c.n_kv_heads = count("n_kv_heads");
        c.head_dim = count("head_dim");
        c.index_dim = count("index_dim");
        c.target_ctx = count("target_ctx");
        c.preset = file.get_string("calibration.preset");
        c.mass = static_cast<float>(file.get_float("calibration.mass"));
        c.full_share = static_cast<float>(file.get_float("calibration.full_share"));
        read_ints(file, "index_pairs", c.index_pairs);
        read_ints(file, "code_bits", c.codes.bits);
        read_ints(file, "full_heads", c.full_heads);
        read_ints(file, "anchors", c.anchors);
        read_ints(file, "head_maps", c.head_maps);
        read_ints(file, "refresh_layers", c.refresh_layers);
        read_ints(file, "refresh_maps", c.refresh_maps);
        c.checked = file.find_uint("calibration.checked").value_or(0) != 0;
        c.quick = file.find_uint("calibration.quick").value_or(0) != 0;
        for (const std::string& preset : tuned_presets()) {
            const std::string key = "calibration.setting." + preset;
            if (!file.find_uint(key + ".budget")) continue;
            const auto number = [&](const char* part) { return static_cast<float>(file.get_float(key + part)); };
            const std::uint32_t budget = count(("setting." + preset + ".budget").c_str());
            const auto later = [&](const char* part) {  // numbers that early sidecars lack
                return static_cast<float>(file.find_float(key + part).value_or(0));
            };
            c.settings.push_back({preset, number(".mass"), budget, number(".budget_share"), number(".captured"),
                                  later(".bytes_per_token"), later(".repeat_ratio")});
        }
        visit_floats(c, [&](const char* name, std::vector<float>& values) {
            const GgufTensor* tensor = file.find(name);
            if (tensor == nullptr) return;
            if (tensor->type != WeightType::kF32) refuse(fmt::format("has a {} that is not F32", name));
            values.resize(tensor->bytes.size() / sizeof(float));
            std::memcpy(values.data(), tensor->bytes.data(), values.size() * sizeof(float));
        });
        check_calibration(c, shape);
        return c;
    } catch (const Error& error) {
        throw Error(error.code(), advice(error.what()));
    }
}

void check_calibration(const Calibration& c, const ModelShape& shape) {
    if (c.n_layers != shape.n_layers || c.n_heads != shape.n_heads || c.n_kv_heads != shape.n_kv_heads ||
        c.head_dim != shape.head_dim)
        refuse("is for a model of another shape");
    if (c.index_dim < 8 || c.index_dim > 64 || c.index_dim % 8 != 0 || c.index_dim > shape.head_dim)
        refuse(fmt::format("has an index_dim of {}", c.index_dim));
    const std::size_t n_kv = std::size_t{c.n_layers} * c.n_kv_heads, n_q = std::size_t{c.n_layers} * c.n_heads;
    const auto sized = [](std::size_t have, std::size_t want, const char* name) {
        if (have != want) refuse(fmt::format("has {} values of {}, not {}", have, name, want));
    };
    sized(c.index_maps.size(), n_kv * 2 * c.index_dim * c.head_dim, "index_maps");
    sized(c.index_pairs.size(), n_kv * c.index_dim, "index_pairs");
    if (!c.codes.bits.empty() || !c.codes.curves.empty())
        if (const std::string fault = code_fault(c.codes, n_kv, c.index_dim); !fault.empty()) refuse(fault);
    sized(c.temperatures.size(), n_kv, "temperatures");
    sized(c.full_heads.size(), n_kv, "full_heads");
    sized(c.head_maps.size(), n_kv, "head_maps");
    for (const auto* scores : {&c.induction, &c.echo, &c.retrieval, &c.far_mass})
        sized(scores->size(), n_q, "head scores");
    sized(c.similarity.size(), std::size_t{c.n_layers} * c.n_layers, "similarity");
    const auto sized_or_absent = [&](std::size_t have, std::size_t want, const char* name) {
        if (have != 0) sized(have, want, name);
    };
    sized_or_absent(c.refresh_maps.size(), n_kv, "refresh_maps");
    sized_or_absent(c.overlap.size(), std::size_t{c.n_layers} * c.n_layers, "overlap");
    for (const auto* quality : {&c.index_mass, &c.index_recall, &c.pair_mass, &c.pair_recall})
        sized_or_absent(quality->size(), n_q, "index quality");
    sized_or_absent(c.captured_mass.size(), n_kv, "captured_mass");
    visit_floats(c, [&](const char* name, const std::vector<float>& values) {
        for (const float value : values)
            if (!(std::fabs(value) < 1e6f)) refuse(fmt::format("has a value of {} that is not finite", name));
    });
    if (!(c.mass >= 0 && c.mass <= 1) || !(c.full_share >= 0 && c.full_share <= 1))
        refuse("has a share outside 0 to 1");
    const auto is_share = [](float x) { return x >= 0 && x <= 1; };
    for (const PresetSetting& s : c.settings)
        if (!is_share(s.mass) || !is_share(s.budget_share) || !is_share(s.captured) || (s.mass == 0 && s.budget == 0) ||
            !(s.bytes_per_token >= 0 && s.bytes_per_token < 1e18f) || !(s.repeat_ratio >= 0 && s.repeat_ratio < 1e18f))
            refuse(fmt::format(
                "has an impossible setting of {} (mass {}, budget {}, share {}, captured {}, {} bytes, repeats {})",
                s.preset, s.mass, s.budget, s.budget_share, s.captured, s.bytes_per_token, s.repeat_ratio));
    for (const std::uint32_t dim : c.index_pairs)
        if (dim >= c.head_dim) refuse("names a dimension that the heads do not have");
    for (const auto* maps : {&c.head_maps, &c.refresh_maps})
        for (const std::uint32_t head : *maps)
            if (head >= c.n_kv_heads) refuse("maps to a kv head that the model does not have");
    for (const auto* layers : {&c.anchors, &c.refresh_layers})
        for (std::size_t i = 0; i < layers->size(); ++i) {
            const std::uint32_t layer = (*layers)[i];
            if (layer >= c.n_layers || (i > 0 && layer <= (*layers)[i - 1]) || shape.layers[layer].window != 0)
                refuse("has anchors that are no ascending layers without a window");
        }
    if (!c.refresh_layers.empty() && c.refresh_maps.empty()) refuse("has anchors without head maps");
    const std::vector<PresetInfo>& known = sparse_presets();
    if (c.preset == "auto" || (!c.preset.empty() && std::none_of(known.begin(), known.end(), [&](const PresetInfo& p) {
            return p.name == c.preset;
        })))
        refuse("recommends a preset that does not exist");
}

std::shared_ptr<const Calibration> find_calibration(const GgufFile& file, const ModelShape& shape) {
    const std::string hash = model_hash(file);
    std::error_code ignored;
    for (const std::filesystem::path& path : {sidecar_beside(file.path()), sidecar_in_cache(hash)})
        if (!path.empty() && std::filesystem::exists(path, ignored))
            return std::make_shared<Calibration>(read_sidecar(path, hash, shape));
    return nullptr;
}

Calibration assume_calibration(const ModelShape& shape, float full_share) {
    Calibration c;
    c.n_layers = shape.n_layers;
    c.n_heads = shape.n_heads;
    c.n_kv_heads = shape.n_kv_heads;
    c.head_dim = shape.head_dim;
    c.index_dim = std::clamp(shape.head_dim / 4 / 8 * 8, 8u, 64u);
    c.target_ctx = shape.n_ctx_train;
    const std::size_t n_kv = std::size_t{c.n_layers} * c.n_kv_heads, n_q = std::size_t{c.n_layers} * c.n_heads;
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(c.index_dim)));
    for (std::size_t i = 0; i < n_kv * 2 * c.index_dim * c.head_dim; ++i) c.index_maps.push_back(normal(random));
    std::size_t n_full = 0, n_seen = 0;
    for (std::size_t i = 0; i < n_kv; ++i) {
        for (std::uint32_t r = 0; r < c.index_dim; ++r) c.index_pairs.push_back(r);
        const bool sees_all = shape.layers[i / c.n_kv_heads].window == 0;
        n_seen += sees_all ? 1 : 0;
        const bool is_full = sees_all && static_cast<float>(n_full) < full_share * static_cast<float>(n_seen);
        c.full_heads.push_back(is_full ? 1 : 0);
        n_full += is_full ? 1 : 0;
        c.head_maps.push_back(static_cast<std::uint32_t>(i % c.n_kv_heads));
    }
    c.full_share = n_seen == 0 ? 1 : static_cast<float>(n_full) / static_cast<float>(n_seen);
    c.temperatures.assign(n_kv, 1);
    // Codes of two or three bits, over the range that the projections of unit keys have.
    for (std::size_t i = 0; i < n_kv * c.index_dim; ++i) {
        const std::uint32_t bits =
            std::min(16 / ((c.index_dim + index_code_words(c.index_dim) - 1) / index_code_words(c.index_dim)), 3u);
        c.codes.bits.push_back(static_cast<std::uint8_t>(bits));
        const float step = 4 / static_cast<float>(1u << bits);
        for (const float term : {step / 2 - 2, step, 0.0f, 0.0f}) c.codes.curves.push_back(term);
    }
    for (auto* scores : {&c.induction, &c.echo, &c.retrieval, &c.far_mass}) scores->assign(n_q, 0);
    c.similarity.assign(std::size_t{c.n_layers} * c.n_layers, 0);
    return c;
}

}  // namespace winnow
