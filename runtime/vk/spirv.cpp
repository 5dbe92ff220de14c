// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/spirv.h"

#include <algorithm>
#include <map>
#include <optional>

#include "winnow/error.h"

namespace winnow::vk {
namespace {

// Numbers from the SPIR-V specification; only what is read here.
constexpr std::uint32_t kMagic = 0x07230203;
constexpr std::size_t kHeaderWords = 5;
enum Op : std::uint32_t {
    kOpExecutionMode = 16,
    kOpCapability = 17,
    kOpTypeBool = 20,
    kOpTypeInt = 21,
    kOpTypeFloat = 22,
    kOpTypeVector = 23,
    kOpTypeArray = 28,
    kOpTypeStruct = 30,
    kOpTypePointer = 32,
    kOpConstantTrue = 41,
    kOpConstantFalse = 42,
    kOpConstant = 43,
    kOpConstantComposite = 44,
    kOpSpecConstantTrue = 48,
    kOpSpecConstantFalse = 49,
    kOpSpecConstant = 50,
    kOpSpecConstantComposite = 51,
    kOpSpecConstantOp = 52,
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

constexpr std::uint32_t kStorageWorkgroup = 4;
constexpr std::uint64_t kUnknown = std::uint64_t{1} << 48;  // more bytes than any array has

/// Values of 32-bit constants, also of those that other constants make up after specialisation.
class Constants {
public:
    void set(std::uint32_t id, std::uint32_t value) { value_of_[id] = value; }
    std::optional<std::uint32_t> get(std::uint32_t id) const {
        const auto found = value_of_.find(id);
        return found == value_of_.end() ? std::nullopt : std::optional(found->second);
    }
    /// OpSpecConstantOp: [type, id, operation, operands...]. What is no 32-bit integer or bool has no value.
    void compute(std::span<const std::uint32_t> args) {
        std::array<std::uint32_t, 3> x{};
        const std::size_t n = args.size() - 3;
        if (n == 0 || n > x.size()) return;
        for (std::size_t i = 0; i < n; ++i) {
            const auto operand = get(args[3 + i]);
            if (!operand) return;
            x[i] = *operand;
        }
        const auto a = static_cast<std::int32_t>(x[0]), b = static_cast<std::int32_t>(x[1]);
        if (const auto result = evaluate(args[2], x, a, b)) set(args[1], *result);
    }

private:
    // Numbers of the operations from the specification.
    static std::optional<std::uint32_t> evaluate(std::uint32_t op, const std::array<std::uint32_t, 3>& x,
                                                 std::int32_t a, std::int32_t b) {
        switch (op) {
            case 124: return x[0];                                                                 // Bitcast
            case 128: return x[0] + x[1];                                                          // IAdd
            case 130: return x[0] - x[1];                                                          // ISub
            case 132: return x[0] * x[1];                                                          // IMul
            case 134: return x[1] == 0 ? 0 : x[0] / x[1];                                          // UDiv
            case 135: return b == 0 ? 0 : b == -1 ? 0 - x[0] : static_cast<std::uint32_t>(a / b);  // SDiv
            case 137: return x[1] == 0 ? 0 : x[0] % x[1];                                          // UMod
            case 164:
            case 170: return x[0] == x[1];  // LogicalEqual, IEqual
            case 165:
            case 171: return x[0] != x[1];                  // LogicalNotEqual, INotEqual
            case 166: return x[0] | x[1];                   // LogicalOr
            case 167: return x[0] & x[1];                   // LogicalAnd
            case 168: return x[0] == 0;                     // LogicalNot
            case 169: return x[0] != 0 ? x[1] : x[2];       // Select
            case 172: return x[0] > x[1];                   // UGreaterThan
            case 173: return a > b;                         // SGreaterThan
            case 174: return x[0] >= x[1];                  // UGreaterThanEqual
            case 175: return a >= b;                        // SGreaterThanEqual
            case 176: return x[0] < x[1];                   // ULessThan
            case 177: return a < b;                         // SLessThan
            case 178: return x[0] <= x[1];                  // ULessThanEqual
            case 179: return a <= b;                        // SLessThanEqual
            case 194: return x[1] > 31 ? 0 : x[0] >> x[1];  // ShiftRightLogical
            case 196: return x[1] > 31 ? 0 : x[0] << x[1];  // ShiftLeftLogical
            case 197: return x[0] | x[1];                   // BitwiseOr
            case 198: return x[0] ^ x[1];                   // BitwiseXor
            case 199: return x[0] & x[1];                   // BitwiseAnd
            default: return std::nullopt;
        }
    }
    std::map<std::uint32_t, std::uint32_t> value_of_;
};

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
    Constants constants;
    std::map<std::uint32_t, std::uint64_t> bytes_of;    // id of a type, or what a pointer type points to
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
        } else if (op == kOpTypeBool && args.size() == 1) {
            bytes_of[args[0]] = 4;
        } else if ((op == kOpTypeInt || op == kOpTypeFloat) && args.size() >= 2) {
            bytes_of[args[0]] = args[1] / 8;
        } else if (op == kOpTypeVector && args.size() == 3) {
            bytes_of[args[0]] = bytes_of[args[1]] * args[2];
        } else if (op == kOpTypeArray && args.size() == 3) {
            const auto length = constants.get(args[2]);
            bytes_of[args[0]] = length ? bytes_of[args[1]] * *length : kUnknown;
        } else if (op == kOpTypeStruct && !args.empty()) {
            std::uint64_t bytes = 0;
            for (const std::uint32_t member : args.subspan(1)) bytes += bytes_of[member];
            bytes_of[args[0]] = bytes;
        } else if (op == kOpTypePointer && args.size() == 3) {
            bytes_of[args[0]] = bytes_of[args[2]];
        } else if (op == kOpVariable && args.size() >= 3 && args[2] == kStorageWorkgroup) {
            if (bytes_of[args[0]] >= kUnknown)
                throw Error(ErrorCode::kInternal, "a shared array's length is more than spirv.cpp understands");
            info.shared_bytes += bytes_of[args[0]];
        } else if (op == kOpVariable && args.size() >= 3 && args[2] == kStorageUniformConstant) {
            if (const auto found = binding_of.find(args[1]); found != binding_of.end())
                info.texel_bindings.push_back(found->second);
        } else if ((op == kOpConstant || op == kOpSpecConstant) && args.size() == 3) {
            const auto id = spec_id_of.find(args[1]);
            const bool given = id != spec_id_of.end() && id->second < spec.size();
            constants.set(args[1], given ? spec[id->second] : args[2]);
        } else if ((op == kOpConstantTrue || op == kOpConstantFalse || op == kOpSpecConstantTrue ||
                    op == kOpSpecConstantFalse) &&
                   args.size() == 2) {
            const auto id = spec_id_of.find(args[1]);
            const bool given = id != spec_id_of.end() && id->second < spec.size();
            constants.set(args[1], given ? spec[id->second] != 0 : op == kOpConstantTrue || op == kOpSpecConstantTrue);
        } else if (op == kOpSpecConstantOp && args.size() > 3) {
            constants.compute(args);
        } else if ((op == kOpConstantComposite || op == kOpSpecConstantComposite) && args.size() == 5 &&
                   size_composite != 0 && args[1] == size_composite) {
            size_ids.assign(args.begin() + 2, args.end());  // outranks the execution mode
        }
    }
    for (std::size_t i = 0; i < size_ids.size(); ++i) {
        if (const auto value = constants.get(size_ids[i])) info.workgroup_size[i] = *value;
    }
    for (const auto& [id, binding] : binding_of) info.bindings.push_back(binding);
    for (const auto& [id, spec_id] : spec_id_of) info.spec_ids.push_back(spec_id);
    sort_unique(info.bindings);
    sort_unique(info.texel_bindings);
    sort_unique(info.spec_ids);
    return info;
}

}  // namespace winnow::vk
