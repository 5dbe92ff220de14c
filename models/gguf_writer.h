// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "winnow/types.h"

namespace winnow {

/// Builds a GGUF v3 file: sidecars and the models that tests make.
class GgufWriter {
public:
    void add_uint(std::string_view key, std::uint32_t value);
    void add_float(std::string_view key, float value);
    void add_bool(std::string_view key, bool value);
    void add_string(std::string_view key, std::string_view value);
    void add_strings(std::string_view key, const std::vector<std::string>& values);
    void add_floats(std::string_view key, const std::vector<float>& values);
    void add_ints(std::string_view key, const std::vector<std::int32_t>& values);
    /// @param dims dims[0] runs fastest. @param bytes whole blocks of `type`; copied.
    void add_tensor(std::string_view name, WeightType type, const std::vector<std::uint64_t>& dims,
                    std::span<const std::byte> bytes);

    std::vector<std::byte> bytes() const;
    /// As a WholeFile. @throws Error(kIo); then `path` is as it was.
    void write(const std::filesystem::path& path) const;

private:
    void begin_key(std::string_view key, std::uint32_t type);

    struct Tensor {
        std::string name;
        WeightType type;
        std::vector<std::uint64_t> dims;
        std::vector<std::byte> bytes;
    };
    std::vector<std::byte> metadata_;
    std::uint64_t n_keys_ = 0;
    std::vector<Tensor> tensors_;
};

}  // namespace winnow
