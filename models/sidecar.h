// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <memory>
#include <string>

#include "models/gguf.h"
#include "winnow/sparse.h"
#include "winnow/types.h"

namespace winnow {

/// Hash of a model's architecture, its numbers, its tensors' names and types and both ends of each: enough to tell
/// models apart without reading all of them. 16 hexadecimal digits.
std::string model_hash(const GgufFile& file);

/// "model.winnow.gguf" beside "model.gguf".
std::filesystem::path sidecar_beside(const std::filesystem::path& model_path);
/// ${XDG_CACHE_HOME:-~/.cache}/winnow/<hash>.winnow.gguf; empty when there is no place for a cache.
std::filesystem::path sidecar_in_cache(const std::string& hash);

/// @throws Error(kIo); then what was at `path` is as it was.
void write_sidecar(const std::filesystem::path& path, const Calibration& calibration, const std::string& hash);
/// @throws Error(kBadFile) in one line: damaged, of another version, or of another model than `hash` and `shape`.
Calibration read_sidecar(const std::filesystem::path& path, const std::string& hash, const ModelShape& shape);

/// The sidecar of a model, beside it or in the cache; null when it has none. @throws Error(kBadFile) as read_sidecar.
std::shared_ptr<const Calibration> find_calibration(const GgufFile& file, const ModelShape& shape);

/// Share of the kv heads that retrieve where nothing is known: 15 % of the query heads (RTPurbo, RazorAttention) were
/// found to lie in 28 % of the kv heads of a model with groups of three.
constexpr float kAssumedFullShare = 0.28f;

/// A stand-in for models that no file holds (memory plans, benches): pseudo-random projections, retrieval heads spread
/// evenly.
Calibration assume_calibration(const ModelShape& shape, float full_share = kAssumedFullShare);

/// @throws Error(kBadFile) when sizes, indices or values do not fit the model.
void check_calibration(const Calibration& calibration, const ModelShape& shape);

}  // namespace winnow
