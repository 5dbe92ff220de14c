// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

#include "examples/winnow/options.h"
#include "models/gguf.h"

namespace winnow::program {

/// Defaults, then the model's general.sampling.*, then the flags. An absent seed is replaced by a
/// random one of 32 bits. Values of the model out of range are left out with a warning.
SamplingOptions resolve_sampling(const SamplingFlags& flags, const GgufFile& file, std::uint32_t n_ctx);

/// `/set key=value`: temp, top_k, top_p, min_p, repeat_penalty, repeat_last_n, seed.
/// @throws Error(kInvalidArgument) for an unknown key or a value out of range.
void set_sampling(SamplingOptions& sampling, const std::string& key, const std::string& value, std::uint32_t n_ctx);

/// "temp=0.8 top_k=40 ..." in the order in which the filters apply.
std::string describe_sampling(const SamplingOptions& sampling);

std::uint64_t random_seed();

}  // namespace winnow::program
