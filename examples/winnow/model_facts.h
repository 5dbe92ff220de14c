// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

#include "models/gguf.h"
#include "models/model.h"
#include "winnow/device.h"
#include "winnow/types.h"

namespace winnow::program {

/// What tables say about a model.
struct ModelFacts {
    std::string name;          ///< general.name, or the file's name
    std::string type;          ///< "llama 135M Q4_1"
    std::string quantisation;  ///< "Q4_K_M"
    std::uint64_t tensor_bytes = 0;
    std::uint64_t n_params = 0;
    std::uint64_t step_bytes = 0;  ///< weights that one decode step reads
};

ModelFacts model_facts(const GgufFile& file);
/// The same of tensors without a file; `name` stands for the model.
ModelFacts model_facts(const ModelSource& model, const std::string& name);

/// Keys and values that one decode step reads with n_tokens in the cache.
std::uint64_t kv_step_bytes(const ModelShape& shape, KvType type, std::uint64_t n_tokens);

const char* device_type_name(DeviceType type);

/// DeviceInfo::driver taken apart: name, and the version from the first word with a digit on.
struct DriverName {
    std::string name;
    std::string version;
};
DriverName split_driver(const std::string& driver);

/// "1.3.239" of a packed Vulkan version.
std::string version_text(std::uint32_t packed);

/// "93.80 MiB", "4.58 GiB"; "134.52 M", "8.03 B".
std::string size_text(std::uint64_t bytes);
std::string params_text(std::uint64_t n);

}  // namespace winnow::program
