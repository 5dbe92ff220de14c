// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/spirv.h"

#include <algorithm>
#include <map>

#include "winnow/error.h"

namespace winnow::vk {
namespace {

// Numbers from the SPIR-V specification; only what is read here.
constexpr std::uint32_t kMagic = 0x07230203;
constexpr std::size_t kHeaderWords = 5;
enum Op : std::uint32_t {
    kOpExecutionMode = 16,
    kOpCapability = 17,
    kOpConstant = 43,
    kOpSpecConstant = 50,
    kOpConstantComposite = 44,
    kOpSpecConstantComposite = 51,
    kOpVariable = 59,
    kOpDecorate = 71,
    kOpExecutionModeId = 331,
};
constexpr std::uint32_t kModeLocalSize = 17;
constexpr std::uint32_t kModeLocalSizeId = 38;
constexpr std::uint32_t kDecorationSpecId = 1;
constexpr std::uint32_t kDecorationBuiltIn = 11;
constexpr std::uint32_t kDecorationBinding = 33;
constexpr std::uint32_t kBuiltInWorkgroupSize = 25;
constexpr std::uint32_t kStorageUniformConstant = 0;  // of our shaders' variables only texel buffers have it

void sort_unique(std::vector<std::uint32_t>& values) {
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace

SpirvInfo inspect_spirv(std::span<const std::uint32_t> words, std::span<const std::uint32_t> spec) {
    if (words.size() < kHeaderWords || words[0] != kMagic) {
        throw Error(ErrorCode::kInternal, "shader words are not SPIR-V");
    }
    SpirvInfo info;
    std::map<std::uint32_t, std::uint32_t> spec_id_of;  // result id -> constant_id
    std::map<std::uint32_t, std::uint32_t> value_of;    // result id of a scalar constant -> value
    std::map<std::uint32_t, std::uint32_t> binding_of;  // id of a variable -> binding
    std::vector<std::uint32_t> size_ids;                // result ids of the workgroup size
    std::uint32_t size_composite = 0;

    for (std::size_t at = kHeaderWords; at < words.size();) {
        const std::uint32_t n_words = words[at] >> 16;
        const std::uint32_t op = words[at] & 0xffffu;
        if (n_words == 0 || n_words > words.size() - at) {
            throw Error(ErrorCode::kInternal, "SPIR-V instruction runs past its module");
        }
        const auto args = words.subspan(at + 1, n_words - 1);
        at += n_words;
        if (op == kOpCapability && args.size() == 1) {
            info.capabilities.push_back(args[0]);
        } else if (op == kOpExecutionMode && args.size() == 5 && args[1] == kModeLocalSize) {
            std::copy_n(args.begin() + 2, 3, info.workgroup_size.begin());
        } else if (op == kOpExecutionModeId && args.size() == 5 && args[1] == kModeLocalSizeId) {
            size_ids.assign(args.begin() + 2, args.end());
        } else if (op == kOpDecorate && args.size() == 3) {
            if (args[1] == kDecorationBinding) binding_of[args[0]] = args[2];
            if (args[1] == kDecorationSpecId) spec_id_of[args[0]] = args[2];
            if (args[1] == kDecorationBuiltIn && args[2] == kBuiltInWorkgroupSize) {
                size_composite = args[0];
            }
        } else if (op == kOpVariable && args.size() >= 3 && args[2] == kStorageUniformConstant) {
            if (const auto found = binding_of.find(args[1]); found != binding_of.end()) info.texel_bindings.push_back(found->second);
        } else if ((op == kOpConstant || op == kOpSpecConstant) && args.size() == 3) {
            const auto id = spec_id_of.find(args[1]);
            const bool given = id != spec_id_of.end() && id->second < spec.size();
            value_of[args[1]] = given ? spec[id->second] : args[2];
        } else if ((op == kOpConstantComposite || op == kOpSpecConstantComposite) && args.size() == 5 &&
                   size_composite != 0 && args[1] == size_composite) {
            size_ids.assign(args.begin() + 2, args.end());  // outranks the execution mode
        }
    }
    for (std::size_t i = 0; i < size_ids.size(); ++i) {
        const auto value = value_of.find(size_ids[i]);
        if (value != value_of.end()) info.workgroup_size[i] = value->second;
    }
    for (const auto& [id, binding] : binding_of) info.bindings.push_back(binding);
    for (const auto& [id, spec_id] : spec_id_of) info.spec_ids.push_back(spec_id);
    sort_unique(info.bindings);
    sort_unique(info.texel_bindings);
    sort_unique(info.spec_ids);
    return info;
}

}  // namespace winnow::vk
