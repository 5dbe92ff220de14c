// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/model_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>

#include "runtime/kv/kv_layout.h"

namespace winnow::program {
namespace {

// Names of general.file_type, as llama.cpp numbers them.
const std::map<std::uint64_t, const char*> kFileTypes = {
    {0, "F32"},     {1, "F16"},     {2, "Q4_0"},    {3, "Q4_1"},    {7, "Q8_0"},    {8, "Q5_0"},
    {9, "Q5_1"},    {10, "Q2_K"},   {11, "Q3_K_S"}, {12, "Q3_K_M"}, {13, "Q3_K_L"}, {14, "Q4_K_S"},
    {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"}, {18, "Q6_K"},   {32, "BF16"}};

// The file's own name for its mix of types, or the type that holds most bytes.
std::string quantisation(const GgufFile& file) {
    if (const std::optional<std::uint64_t> id = file.find_uint("general.file_type")) {
        if (const auto found = kFileTypes.find(*id); found != kFileTypes.end()) return found->second;
    }
    std::map<WeightType, std::size_t> bytes;
    for (const GgufTensor& tensor : file.tensors()) bytes[tensor.type] += tensor.bytes.size();
    if (bytes.empty()) return "no tensors";
    const auto most =
        std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    return type_name(most->first);
}

std::string short_count(std::uint64_t n) {
    const double value = static_cast<double>(n);
    if (value >= 1e9) return fmt::format("{:.1f}B", value / 1e9);
    if (value >= 1e6) return fmt::format("{:.0f}M", value / 1e6);
    return fmt::format("{}", n);
}

}  // namespace

ModelFacts model_facts(const GgufFile& file) {
    ModelFacts facts;
    const bool own_output = file.find("output.weight") != nullptr;
    for (const GgufTensor& tensor : file.tensors()) {
        facts.tensor_bytes += tensor.bytes.size();
        facts.n_params += tensor.n_in() * tensor.n_rows();
        // Of the embedding a step reads one row, unless it is the output matrix too.
        if (tensor.name == "token_embd.weight" && own_output) {
            facts.step_bytes += tensor.bytes.size() / std::max<std::uint64_t>(1, tensor.n_rows());
        } else {
            facts.step_bytes += tensor.bytes.size();
        }
    }
    facts.quantisation = quantisation(file);
    facts.name = std::string(file.find_string("general.name").value_or(file.path().filename().string()));
    const std::string size(file.find_string("general.size_label").value_or(""));
    facts.type = fmt::format("{} {} {}", file.find_string("general.architecture").value_or("unknown"),
                             size.empty() ? short_count(facts.n_params) : size, facts.quantisation);
    return facts;
}

ModelFacts model_facts(const ModelSource& model, const std::string& name) {
    ModelFacts facts;
    const ModelTensors& t = model.tensors;
    const auto add = [&facts](const GgufTensor* tensor, bool every_step = true) {
        facts.tensor_bytes += tensor->bytes.size();
        facts.n_params += tensor->n_in() * tensor->n_rows();
        facts.step_bytes += every_step ? tensor->bytes.size() : tensor->bytes.size() / tensor->n_rows();
    };
    for (const LayerTensors& l : t.layers)
        for (const GgufTensor* tensor :
             {l.attn_norm, l.attn_q, l.attn_k, l.attn_v, l.attn_output, l.ffn_norm, l.ffn_gate, l.ffn_up, l.ffn_down})
            add(tensor);
    add(t.output_norm);
    add(t.output);
    if (t.token_embd != t.output) add(t.token_embd, false);
    facts.name = name;
    facts.quantisation = type_name(t.layers.front().attn_q->type);
    facts.type =
        fmt::format("{} {} {} random", model.shape.architecture, short_count(facts.n_params), facts.quantisation);
    return facts;
}

std::uint64_t kv_step_bytes(const ModelShape& shape, KvType type, std::uint64_t n_tokens) {
    const std::uint64_t row_bytes = std::uint64_t{2} * shape.n_kv_heads * kv_row_bytes(type, shape.head_dim);
    std::uint64_t bytes = 0;
    for (const LayerShape& layer : shape.layers) {
        bytes += row_bytes * (layer.window == 0 ? n_tokens : std::min<std::uint64_t>(layer.window, n_tokens));
    }
    return bytes;
}

const char* device_type_name(DeviceType type) {
    switch (type) {
        case DeviceType::kDiscrete: return "discrete";
        case DeviceType::kIntegrated: return "integrated";
        case DeviceType::kVirtual: return "virtual";
        case DeviceType::kCpu: return "cpu";
        case DeviceType::kOther: return "other";
    }
    return "other";
}

DriverName split_driver(const std::string& driver) {
    for (std::size_t begin = 0; begin < driver.size();) {
        const std::size_t end = std::min(driver.find(' ', begin), driver.size());
        const std::string_view word = std::string_view(driver).substr(begin, end - begin);
        if (begin > 0 && word.find_first_of("0123456789") != std::string_view::npos) {
            return {driver.substr(0, begin - 1), driver.substr(begin)};
        }
        begin = end + 1;
    }
    return {driver, ""};
}

std::string version_text(std::uint32_t packed) {
    return fmt::format("{}.{}.{}", (packed >> 22) & 0x7f, (packed >> 12) & 0x3ff, packed & 0xfff);
}

std::string size_text(std::uint64_t bytes) {
    const double mib = static_cast<double>(bytes) / (1 << 20);
    return mib < 1024 ? fmt::format("{:.2f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
}

std::string params_text(std::uint64_t n) {
    const double millions = static_cast<double>(n) / 1e6;
    return millions < 1000 ? fmt::format("{:.2f} M", millions) : fmt::format("{:.2f} B", millions / 1000);
}

}  // namespace winnow::program
